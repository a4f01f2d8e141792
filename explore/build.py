"""From a program to the data of its page; what does not compile keeps the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..compiler import Compilation, NoSuchProgramName
from ..compiler.stages import UnknownKernel, kernels_named
from ..cost_model.hardware import Hardware
from ..ir.diagnostics import ModelError, WeftError
from ..ir.display.view import Drawing
from ..options import Options
from ..passes.program.prefixes.text import tree_picture
from . import kernels as kernel_texts
from . import prices, run
from .schedule import plan_chart
from .stages import graph_stages, passes_of, problem_of, program_stages

Say = Callable[[str], None]
WIDTH = 1100.0
"""Pixels of a picture."""


@dataclass(frozen=True)
class Wish:
    """What to explore: the program, its model, what to run it with, and how much to show.

    `rows` are run if there are any, and their prefixes are joined. `assembly` is a part of the
    names of kernels whose machine code is wanted (empty: all); None leaves it out.
    """

    program: Any
    model: str | Path
    name: str | None = None
    options: Options = field(default_factory=Options)
    rows: Sequence[Mapping[str, Any]] = ()
    assembly: str | None = ""
    tools: Mapping[str, Callable[..., Any]] | None = None
    ptx: str | None = None
    """As `assembly`, for the code that Triton makes of the same kernels for an NVIDIA GPU."""


@dataclass
class Explored:
    """The data of a page: JSON for its script, pictures for its sections."""

    data: dict[str, Any]
    pictures: dict[str, Drawing] = field(default_factory=dict)
    error: WeftError | None = None


def explore(wish: Wish, hardware: Hardware, say: Say = lambda text: None) -> Explored:
    """Compile a program, run its rows, and return what there is to see.

    Raises WeftError for a file, a model or rows that are not there; one in the program itself
    becomes part of the page.
    """
    found = Explored(_empty(wish))
    try:
        _fill(found, wish, hardware, say)
    except (ModelError, NoSuchProgramName, UnknownKernel):
        raise
    except WeftError as error:
        if not found.data["source"]["lines"]:
            _source_of(found, error)
        found.error = error
        found.data["problem"] = problem_of(error, found.data["at"])
    return found


def _empty(wish: Wish) -> dict[str, Any]:
    return {
        "version": 1, "title": "", "model": str(wish.model), "at": "parse", "problem": None,
        "source": {"name": str(wish.program), "language": "weft", "lines": []}, "stages": [],
        "passes": [], "statements": {}, "kernels": [], "packed": {}, "points": [],
        "measured": {}, "run": None, "tree": None,
    }  # fmt: skip


def _fill(found: Explored, wish: Wish, hardware: Hardware, say: Say) -> None:
    data = found.data
    say("parsing")
    compilation = Compilation(
        wish.program, wish.model, name=wish.name, tools=wish.tools,
        options=wish.options.changed(trace=True),
    )  # fmt: skip
    source = compilation.opened.source
    python = source.name.endswith(".py") or source.name.startswith("<python")
    data["source"] = {"name": source.name, "language": "python" if python else "weft",
                      "lines": source.lines}  # fmt: skip
    _ = compilation.checkpoint  # an unknown model is no fault of the program
    try:
        for name, make in program_stages(compilation):
            say(name)
            data["at"] = name
            data["stages"].append(make())
        data["title"] = f"@{compilation.program_name}"
        if compilation.remote is None:
            _model(found, wish, compilation, hardware, say)
    finally:
        if "lowered" in vars(compilation):
            data["passes"] = passes_of(compilation)


def _model(
    found: Explored, wish: Wish, compilation: Compilation, hardware: Hardware, say: Say
) -> None:
    """Add what needs the model: prefixes, graph, kernels, and a run."""
    data, pictures = found.data, found.pictures
    data["at"] = "prefixes"
    tree = compilation.prefix_tree(wish.rows)
    data["tree"] = {"rows": tree.rows, **vars(tree.counts), "unique": tree.unique}
    pictures["tree"] = replace(tree_picture(tree), width=WIDTH)
    if (chart := run.lifetimes(compilation.plan, compilation.program_name)) is not None:
        pictures["lifetimes"] = chart
    say("graph")
    data["at"] = "graph"
    data["stages"] += graph_stages(compilation)
    data["at"] = "kernels"
    kernels = kernel_texts.all_kernels(compilation)
    data["kernels"] = kernel_texts.described(compilation, kernels)
    data["statements"] = kernel_texts.statements(compilation, kernels)
    say("machine code")
    machine, ptx = (
        [] if part is None else list(kernels_named(kernels, part))
        for part in (wish.assembly, wish.ptx)
    )
    data["packed"] = kernel_texts.packed(kernels, machine, ptx, wish.options.cache)
    priced = prices.prices(compilation, hardware)
    data["points"] = prices.rows_of(priced)
    pictures["roofline"] = replace(prices.picture(priced, hardware), width=WIDTH)
    data["hardware"] = hardware.name
    cost = prices.token_prices(priced)
    if (chart := plan_chart(compilation.plan, compilation.program_name, cost, WIDTH)) is not None:
        pictures["plan"] = chart
    if wish.rows:
        say("running")
        data["at"] = "run"
        _run(found, wish, compilation)


def _run(found: Explored, wish: Wish, compilation: Compilation) -> None:
    from ..runtime.tracing.trace_view import gantt, lanes_said, memory

    trace, results = run.run_rows(compilation, wish.rows)
    data = found.data
    data["measured"] = run.measured_kernels(trace)
    data["run"] = {
        "rows": results.stats.rows, "facts": dict(results.stats.facts().pairs),
        "errors": {str(row): text for row, text in results.errors.items()},
        "steps": len(trace.steps), "caption": lanes_said(trace),
    }  # fmt: skip
    data["statements"] |= run.launched_for(trace, compilation.opened.source.name)
    found.pictures["timeline"] = gantt(trace, WIDTH)
    found.pictures["memory"] = memory(trace, WIDTH)


def _source_of(found: Explored, error: WeftError) -> None:
    """Show the text of a program that could not even be parsed; raise where there is none."""
    if error.source is None:
        raise error
    language = "python" if error.source.name.endswith(".py") else "weft"
    found.data["source"] = {"name": error.source.name, "language": language,
                            "lines": error.source.lines}  # fmt: skip
