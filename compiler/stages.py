"""Every stage of a compilation, by name, as data and as text; and what each pass did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..ir.core import Module
from ..ir.diagnostics import WeftError
from ..ir.printer import print_module, print_operation
from ..passes.manager import PassRecord

if TYPE_CHECKING:
    from ..passes.program.prefixes.tree import PrefixTree
    from .compilation import Compilation

STAGES = ("ast", "program", "plan", "rows", "prefixes", "graph", "tile", "source", "binary")
_FORMS = {
    "prefixes": ("text", "svg"),
    "source": ("tvm", "triton"),
    "binary": ("assembly", "llvm", "ptx", "ttir", "ttgir"),
}


class _NoSuchKey(WeftError, KeyError):
    """A WeftError that a mapping raises: `in` and `get` take it for a key that is not there."""

    __str__ = WeftError.__str__  # KeyError's is the key's repr


class UnknownStage(_NoSuchKey):
    """A stage, or a form of one, that compilation does not have."""

    kind = "option error"
    template = "there is no {what} {name!r}"
    hint = "there are: {known}"


class NoPictures(WeftError):
    """A picture that was asked for where its package is not installed."""

    kind = "option error"
    template = "pictures need {package}"
    hint = "pip install 'matplotlib>=3.9' (the extra `plots` of weft)"


def require_pictures() -> None:
    """Raise NoPictures where none could be drawn: before the work that one would show."""
    if find_spec("matplotlib") is None:
        raise NoPictures(package="matplotlib")


class UnknownKernel(_NoSuchKey):
    """A kernel name that fits none."""

    kind = "option error"
    template = "no kernel has {name!r} in its name"
    hint = "the kernels are: {known}"


class PassDidNotRun(WeftError):
    """A pass that this compilation has no record of."""

    kind = "option error"
    template = "no pass {name!r} ran"
    hint = "these ran: {ran}"


class LeavesOtherIR(WeftError):
    """A stage asked for after a pass that leaves IR of another one."""

    kind = "option error"
    template = "after pass {name!r} there is IR of {left}, none of {stage}"
    hint = "leave out --stage, or name a pass of that stage"


class Stages(Mapping[str, Any]):
    """`stages["plan"]`: modules for the IR stages, the AST, and kernel texts by kernel name."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation

    def __getitem__(self, stage: str) -> Any:
        made = {
            "ast": lambda c: c.ast,
            "program": lambda c: c.program,
            "plan": lambda c: c.plan,
            "rows": _rows,
            "prefixes": lambda c: c.prefixes.tree(),
            "graph": lambda c: c.graph,
            "tile": lambda c: c.tile,
            "source": lambda c: _Texts(c.kernels, lambda kernel: kernel.source),
            "binary": lambda c: _Texts(c.kernels, lambda kernel: kernel.inspect("assembly")),
        }
        if stage not in made:
            raise UnknownStage(what="stage", name=stage, known=", ".join(STAGES))
        return made[stage](self._compilation)

    def __iter__(self) -> Iterator[str]:
        return iter(STAGES)

    def __len__(self) -> int:
        return len(STAGES)


def _rows(compilation: Compilation) -> str:
    from ..runtime.programs.row_code import row_text

    return row_text(compilation.plan, compilation.program_name)


class _Texts(Mapping[str, str]):
    """A text of each kernel, by the kernel's name; it is made when looked at."""

    def __init__(self, kernels: Mapping[str, Any], text: Callable[[Any], str]) -> None:
        self._kernels = kernels
        self._text = text

    def __getitem__(self, name: str) -> str:
        if name not in self._kernels:
            raise UnknownKernel(name=name, known=", ".join(self._kernels))
        return self._text(self._kernels[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._kernels)

    def __len__(self) -> int:
        return len(self._kernels)


def stage_text(
    compilation: Compilation,
    stage: str,
    kernel: str | None,
    form: str,
    spans: bool,
    rows: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return a stage as text; `kernel` keeps the kernels with this in their names.

    `rows` are those whose prefixes are wanted.
    """
    if stage not in STAGES:
        raise UnknownStage(what="stage", name=stage, known=", ".join(STAGES))
    if stage == "ast":
        from ..frontend.ast_dump import dump

        return dump(compilation.ast)
    if stage == "rows":
        return Stages(compilation)[stage]
    if stage == "prefixes":
        return _prefixes(compilation.prefix_tree(rows), form or "text")
    if stage in {"source", "binary"}:
        return _kernel_texts(compilation, stage, kernel, form or _FORMS[stage][0])
    module: Module = Stages(compilation)[stage]
    if stage == "tile" and kernel:
        chosen = kernels_named({op["name"].name: op for op in module.operations}, kernel)
        return "\n".join(print_operation(operation) for operation in chosen.values())
    return print_module(module, spans)


def record_of(compilation: Compilation, name: str, stage: str | None = None) -> PassRecord:
    """Return the record of a pass that leaves IR of a stage (None: of any), running as much of the
    compilation as it takes; raises PassDidNotRun and LeavesOtherIR."""
    others: dict[str, None] = {}
    for reach in ("program",) if compilation.remote else ("program", "plan", "graph", "tile"):
        _ = Stages(compilation)[reach]
        for record in (record for record in compilation.records if record.name == name):
            left = {operation.dialect: None for operation in record.after.operations}
            if stage is None or stage in left:
                return record
            others |= left
    if others:
        raise LeavesOtherIR(name=name, left=" and ".join(others), stage=stage)
    ran = ", ".join(dict.fromkeys(record.name for record in compilation.records))
    raise PassDidNotRun(name=name, ran=ran)


def explanation(compilation: Compilation) -> str:
    """Return, pass by pass, what was done and what was left, with lines of the source."""
    stages = ("program",) if compilation.remote else ("program", "plan")
    for stage in (*stages, "graph") if compilation.options.gpu_memory else stages:
        _ = Stages(compilation)[stage]
    whole = not compilation.remote and not compilation.options.gpu_memory
    if whole and compilation.checkpoint is not None:
        _ = compilation.regimes  # passes over the model have something to say too, as attention has
    source = compilation.opened.source
    lines: list[str] = []
    for record in compilation.records:
        lines.append(f"{record.name} ({1000 * record.seconds:.1f} ms): {_summary(record)}")
        for remark in record.remarks:
            lines.append(f"  {'did ' if remark.done else 'left'} {remark.message}")
            if remark.span is not None and remark.span.source == source.name:
                lines.append(f"       {remark.span.line:>4} | {source.line(remark.span.line)}")
    attention = compilation.attention if whole and compilation.checkpoint is not None else None
    if attention is not None and attention.budget:
        lines.append(f"attention: {attention.budget}")
    if whole and compilation.options.kv_host_memory:
        from .key_offload import explained

        lines += [
            "queues:",
            *(f"  {line}" for line in explained(compilation.regimes, attention)),
        ]
    if compilation.on_gpu and not compilation.options.kv_memory:
        lines.append("memory: what the GPU has free, known when the model is loaded; or kv_memory")
    elif not compilation.remote and compilation.checkpoint is not None:
        from .memory_proof import memory_proof

        proof = memory_proof(compilation)
        lines.append(f"memory ({1000 * proof.seconds:.1f} ms):")
        lines.append(f"  rows of any text: {proof.explain(compilation.options.max_batch)}")
        if proof.fits(compilation.options.max_batch):
            lines.append(f"  {_held(proof.most_rows, compilation.options.max_batch)}")
    return "\n".join(lines)


def _held(fit: int, batch: int) -> str:
    """Return what the engine makes of a proof that so many rows of any text fit."""
    from ..runtime.schedule.forecast import held_rows

    rows = held_rows(fit, batch)
    if rows is None:
        return "however many rows are given: they start so that none computes KV again"
    return (
        f"up to {rows} row{'s' * (rows != 1)} given at once, or more of shorter texts: none"
        " computes KV again; others start by what rows hold, and may"
    )


def _summary(record: PassRecord) -> str:
    """Return by how much the counts of operations changed, or how the IR else did."""
    counts = ", ".join(f"{name} {change:+}" for name, change in record.counts().items())
    if counts or record.changed:
        return counts or "rewritten in place"
    found = any(remark.done for remark in record.remarks)  # facts that are kept beside the IR
    return "the IR is as it was" if found else "changed nothing"


def _prefixes(tree: PrefixTree, form: str) -> str:
    _check_form("prefixes", form)
    if form == "text":
        return str(tree)
    require_pictures()
    from ..plots.prefixes import prefix_map

    return prefix_map(tree).svg()


def _check_form(stage: str, form: str) -> None:
    if form not in _FORMS[stage]:
        raise UnknownStage(what=f"form of {stage}", name=form, known=", ".join(_FORMS[stage]))


def _kernel_texts(compilation: Compilation, stage: str, kernel: str | None, form: str) -> str:
    _check_form(stage, form)
    if form in {"tvm", "assembly", "llvm"}:
        chosen = kernels_named(compilation.kernels, kernel)
        texts = {
            name: one.source if form == "tvm" else one.inspect(form) for name, one in chosen.items()
        }
    else:
        texts = _triton_texts(compilation, kernel, form)
    return "\n".join(f"# kernel {name}\n{text}" for name, text in texts.items())


def _triton_texts(compilation: Compilation, kernel: str | None, form: str) -> dict[str, str]:
    from ..passes.tile.regimes import merge_kernels

    pairs = {op["name"].name: (op, schedule) for op, schedule in merge_kernels(compilation.regimes)}
    chosen = kernels_named(pairs, kernel)
    if form == "triton":
        from ..codegen.triton.emit import emit

        return {name: emit(*pair).text for name, pair in chosen.items()}
    from ..codegen.triton.compile import compile_offline

    return {name: str(compile_offline(*pair)[form]) for name, pair in chosen.items()}


def kernels_named(kernels: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return the kernels with `name` in theirs (None: all); raises UnknownKernel."""
    found = {key: value for key, value in kernels.items() if name is None or name in key}
    if not found:
        raise UnknownKernel(name=name, known=", ".join(kernels))
    return found
