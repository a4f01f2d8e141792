"""Whether a compiled program's rows fit the KV memory: the proof, for the model and the options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..ir.budget import UNBOUNDED, Limits
from ..ir.core import Operation, thaw
from ..ir.values import format_value
from .formats import page_size
from .loading import page_count

if TYPE_CHECKING:
    from ..passes.program.memory.proof import MemoryProof
    from .compilation import Compilation


def memory_proof(
    compilation: Compilation, arguments: Mapping[str, Any] | None = None
) -> MemoryProof:
    """Return the proof that rows of a program fit, with `arguments` or any text that fits.

    A list that is not given has its default's elements, or one. Raises NotProven.
    """
    from ..codegen.cache import default_folder
    from ..passes.program.memory.proof import prove_memory

    checkpoint, options = compilation.checkpoint, compilation.options
    assert checkpoint is not None
    programs = [op for op in compilation.plan.operations if op.name == "plan.func"]
    function = next(op for op in programs if op["name"].name == compilation.program_name)
    limits = Limits(page_size(options), checkpoint.config.context_length)
    return prove_memory(
        programs, compilation.program_name, row_symbols(function, arguments or {}), limits,
        page_count(checkpoint, options, compilation.attention, page_size(options)),
        (options.cache or default_folder()) / "proofs",
    )  # fmt: skip


def row_symbols(function: Operation, arguments: Mapping[str, Any]) -> Callable[[str], int]:
    """Return the sizes of a row of which only some values are known."""
    defaults = {
        entry["name"]: thaw(entry["default"])
        for entry in function["parameters"]
        if any(key == "default" for key, _ in entry.items)
    }
    known = defaults | dict(arguments)

    def size(symbol: str) -> int:
        what, name = symbol.split(" ", 1)
        if what == "count":
            return len(known[name]) if name in known else 1
        if name not in known:
            return UNBOUNDED
        if what == "value":
            return max(0, int(known[name]))
        values = known[name] if what == "longest" else [known[name]]
        return max((len(format_value(value).encode()) for value in values), default=0)

    return size
