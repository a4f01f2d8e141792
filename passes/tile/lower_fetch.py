"""Lowering of fetches: launches that bring what is selected to a layer's cache, and decode there.

What fetches ahead is launched on a queue of its own, `up`; it touches lists, books of the cache and
scratch memory that nothing else has. `passes.graph.launch_pipeline` finds what must wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir.core import Operation, Term, Value
from ...ir.types import tensor
from . import key_cache
from .held_attention import held_decode
from .key_cache import KeyCache
from .lower_sparse import EXTENT, gathered_shape, lower_select

if TYPE_CHECKING:
    from .lower import _Lowering

UP = "up"
"""The queue of what crosses the link ahead."""
OF_LAYER = frozenset({
    "k", "v", "held_k", "held_v", "row_of", "slot_of", "marks", "hand", "counters",
})  # fmt: skip
"""What a layer has of its own: pools, and the cache with its books."""
SCRATCH = frozenset({"victims", "spare", "fresh_slot", "fresh_row", "fresh"})
"""What passes from launch to launch of one fetch."""


@dataclass
class Fetches:
    """What fetches lowered so far have left: of each layer fetched ahead its lists, and of each
    result the select, and the values of rows and counts."""

    ahead: dict[int, tuple[Value, ...]] = field(default_factory=dict)
    brought: dict[str, tuple[Operation, Value, Value]] = field(default_factory=dict)


def lower_fetch(lowering: _Lowering, op: Operation) -> list[Operation]:
    """Scores and lists, then the cache's launches; what is fetched ahead is launched apart."""
    select = lowering.makers[op.operands[0].name]
    views = lowering.makers[select.operands[2].name]
    calls, _, (chosen, counts) = lower_select(lowering, select)
    operands = (*views.operands, chosen, counts)
    names = ("page_table", "kv_lengths", "chosen", "counts")
    where = {name: Term("in", (place,)) for place, name in enumerate(names)}
    ahead, layer = bool(op.attribute("ahead")), op["layer"]
    shape = cache_shape(lowering, select)
    for kernel in (
        key_cache.look(shape, ahead), key_cache.free(shape, ahead), key_cache.place(shape, ahead),
        key_cache.fetch(shape),
    ):  # fmt: skip
        calls.append(_launch(lowering, op, kernel, layer, where, operands, ahead))
    if ahead:
        lowering.fetches.ahead[layer] = (chosen, counts)
        return calls
    rows = lowering.names.value("rows", tensor("i32", "B", select["kv_heads"], EXTENT))
    where["rows"] = Term("out", (0,))
    calls.append(_launch(lowering, op, key_cache.rows(shape), layer, where, operands, False, rows))
    lowering.fetches.brought[op.result.name] = (select, rows, counts)
    return calls


def lower_held(
    lowering: _Lowering, op: Operation, partial: Operation, fetch: Operation
) -> list[Operation]:
    """Decode over the rows that a fetch has brought."""
    select, rows, counts = lowering.fetches.brought[fetch.result.name]
    _, lengths = lowering.makers[select.operands[2].name].operands
    kernel, layer = held_decode(gathered_shape(lowering, select, partial["scale"])), fetch["layer"]
    terms = [Term(name) for name in ("B", "L", "HP")]
    terms += [Term("in", (place,)) for place in range(4)]
    terms += [Term("held_k", (layer,)), Term("held_v", (layer,)), Term("out", (0,))]
    return [lowering.call(op, kernel, terms, (partial.operands[0], lengths, rows, counts))]


def forget_written(lowering: _Lowering, op: Operation) -> list[Operation]:
    """The slots that a step writes leave the cache. The lists of what was fetched ahead live until
    then, when that fetch has been waited for."""
    shape = KeyCache(op["kv_heads"], op["head_dim"], lowering.options.page_size)
    where = {"slots": Term("in", (0,))}
    operands = (*op.operands, *lowering.fetches.ahead.get(op["layer"], ()))
    return [_launch(lowering, op, key_cache.forget(shape), op["layer"], where, operands, False)]


def cache_shape(lowering: _Lowering, select: Operation) -> KeyCache:
    """Return the shape of the cache of a layer that selects."""
    options = lowering.options
    return KeyCache(select["kv_heads"], select["head_dim"], options.page_size, options.kv)


def _launch(
    lowering: _Lowering, op: Operation, kernel: Operation, layer: int, where: dict[str, Term],
    operands: tuple[Value, ...], ahead: bool, *results: Value,
) -> Operation:  # fmt: skip
    """Return a call: lists are `where`, a layer's memory by its number, scratch by who uses it."""

    def term(name: str) -> Term:
        if name in OF_LAYER:
            return Term(name, (layer,))
        if name in SCRATCH:
            return Term(f"guess_{name}" if ahead else name)
        return where.get(name) or Term(name)

    terms = [term(value.name) for value in kernel.regions[0].arguments]
    call = lowering.call(op, kernel, terms, operands, results)
    return call.with_attributes(queue=Term(UP)) if ahead else call
