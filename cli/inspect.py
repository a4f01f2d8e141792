"""`weft dump` and `weft opt`: a program at each stage, and passes on IR text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.diagnostics import WeftError, reason
from .offload import offload_options
from .render import console, emit, remarks
from .rows import read_rows
from .run import attention_options


@dataclass(frozen=True)
class DumpOptions:
    """The options of `weft dump`, as the command line has them."""

    file: Path
    stage: str | None
    after: str | None
    diff: bool
    model: str
    program: str | None
    kernel: str | None
    form: str
    weights: str
    attention: str
    max_loss: float | None
    gpu_memory: str
    host_memory: str
    offload: list[str] | None
    offload_policy: Path | None
    spans: bool
    rows: Path | None


def dump(options: DumpOptions) -> None:
    """Print one stage, or the module after one pass, or what the pass changed."""
    from ..options import BadOption, Options

    if options.diff and options.after is None:
        raise BadOption(problem="--diff shows what one pass changed: name it with --after PASS")
    stage = options.stage or "program"
    _check_for_stage(options, stage if options.after is None else "a pass (--after)")
    given: dict[str, Any] = {"weights": options.weights} if options.weights else {}
    given |= attention_options(options.attention, options.max_loss)
    given |= offload_options(options, "cpu", given)
    chosen = Options.from_env().changed(**given)
    if stage == "ast" and options.after is None:  # it needs no pass
        from ..frontend.ast_dump import dump as tree
        from ..frontend.open import open_program

        emit(tree(open_program(options.file, None, options.program).file))
        return
    from ..compiler import Compilation
    from ..compiler.stages import record_of, stage_text
    from ..ir.printer import print_module

    compilation = Compilation(options.file, options.model, name=options.program, options=chosen)
    if options.after is None:
        rows = list(read_rows(options.rows)) if options.rows is not None else []
        emit(stage_text(compilation, stage, options.kernel, options.form, options.spans, rows))
        return
    record = record_of(compilation, options.after, options.stage)
    if options.diff:
        emit(record.diff() or f"{record.name} changed nothing")
    else:
        emit(print_module(record.after, options.spans))


def _check_for_stage(options: DumpOptions, shown: str) -> None:
    """Raise BadOption for an option that says nothing of what is shown."""
    from ..options import BadOption

    for name, given, stages in (
        ("--kernel", options.kernel is not None, "tile, source, binary"),
        ("--rows", options.rows is not None, "prefixes"),
        ("--form", bool(options.form), "prefixes, source, binary"),
    ):
        if given and shown not in stages.split(", "):
            raise BadOption(problem=f"{name} is for {stages}, not {shown}")


class NoText(WeftError):
    """`weft opt` without a file, or with an empty one."""

    kind = "option error"
    template = "there is no IR text to run passes on{where}"
    hint = "weft opt FILE, weft opt - for standard input, or weft opt --list"


def opt(
    file: Path | None,
    passes: str,
    model: str | None,
    spans: bool,
    list_passes: bool,
    validate: bool = False,
) -> None:
    """Parse IR text, verify it, run the passes, print the result."""
    from ..ir.parser import parse_module
    from ..ir.printer import print_module
    from ..ir.verifier import verify
    from ..passes.manager import run_passes
    from ..passes.pipeline import known_passes, named_passes
    from ..passes.validation.registry import validation

    if list_passes:
        for name, step in known_passes().items():
            summary = (type(step).__doc__ or "").strip().splitlines()[0]
            console().print(f"{name:24} {' '.join(step.reads):14} {summary}", markup=False)
        return
    if file is None:
        raise NoText(where="")
    module = parse_module(_read(file), str(file))
    if not module.operations:
        where = "standard input" if str(file) == "-" else file
        raise NoText(where=f": {where} holds no operation")
    verify(module)
    chosen = named_passes([name.strip() for name in passes.split(",") if name.strip()])
    held = frozenset(fact for step in chosen for fact in step.requires)
    context = _context(model)
    context.validate = validation() if validate else None
    module, records = run_passes(chosen, module, context, held)
    for remark in context.remarks:
        place = f"{remark.span}: " if remark.span else ""
        remarks().print(f"{place}{remark.pass_name}: {remark.message}", markup=False, style="dim")
    emit(print_module(module, spans))


def _context(model: str | None):  # noqa: ANN202
    from ..frontend.checkpoints.checkpoint import open_checkpoint
    from ..frontend.semantics.constraints import constraint_of
    from ..passes.manager import Context

    if model is None:
        return Context(constraint_of=constraint_of)
    checkpoint = open_checkpoint(model)
    return Context(
        tokenizer=checkpoint.tokenizer,
        chat=checkpoint.chat,
        constraint_of=constraint_of,
        model_name=checkpoint.name,
        context_length=checkpoint.config.context_length,
    )


def _read(file: Path) -> str:
    from ..frontend.open import NoSuchProgram

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        hint = "give IR text, as weft dump prints it"
        raise NoSuchProgram(path=file, problem=reason(error), hint=hint) from None
