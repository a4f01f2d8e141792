"""The stages of a compilation as listings whose lines know the statement that they come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..compiler import Compilation
from ..frontend.ast_dump import dump
from ..ir.core import Module
from ..ir.diagnostics import WeftError
from ..ir.printer import located_lines
from ..ir.source import Span
from ..passes.manager import PassRecord

Link = list[int] | None
"""The first and last source line that a line comes from."""

_PLACE = re.compile(r"  @(\d+):\d+$")


def listing(
    name: str, title: str, about: str, language: str, lines: Sequence[str], links: Sequence[Link]
) -> dict[str, Any]:
    """Return one pane of code."""
    return {"id": name, "title": title, "about": about, "language": language,
            "lines": list(lines), "links": list(links)}  # fmt: skip


def module_listing(name: str, title: str, about: str, module: Module, source: str
                   ) -> dict[str, Any]:  # fmt: skip
    """Return a module as a pane; lines of other files than `source` have no link."""
    pairs = located_lines(module.operations)
    links = [link_of(operation.span, source) for _, operation in pairs]
    return listing(name, title, about, "ir", [text for text, _ in pairs], links)


def link_of(span: Span | None, source: str) -> Link:
    """Return a span's lines, if it is one of the program's file."""
    return [span.line, span.end_line] if span is not None and span.source == source else None


def program_stages(compilation: Compilation) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the stages up to the plan, each to be made when it is called."""
    source = compilation.opened.source.name

    def of(name: str, title: str, about: str, get: Callable[[], Module]) -> Any:
        return name, lambda: module_listing(name, title, about, get(), source)

    yield "ast", lambda: _ast(compilation)
    yield of("lowered", "Program IR, lowered", "streams of prompt state, before any pass",
             lambda: compilation.lowered)  # fmt: skip
    yield of("program", "Program IR", "after the passes over the program",
             lambda: compilation.program)  # fmt: skip
    if compilation.remote is None:
        yield of("plan", "Plan", "what the engine executes", lambda: compilation.plan)


def graph_stages(compilation: Compilation) -> Iterator[dict[str, Any]]:
    """Yield the model's graph, then the launches of each kind of step."""
    graph = compilation.graph
    yield module_listing("graph", "Model graph", "the model's step, shared passes done", graph, "")
    for regime in compilation.regimes:
        name = regime_name(regime.rows)
        module = Module((regime.function,))
        stage = module_listing(f"step-{regime.rows}", f"Launches, {name}",
                               "the step as kernel launches: click one", module, "")  # fmt: skip
        calls = [op["kernel"].name if op.name == "graph.call" else ""
                 for _, op in located_lines(module.operations)]  # fmt: skip
        yield stage | {"calls": calls}


def regime_name(rows: int) -> str:
    """Return what a regime is for: steps that only decode so many rows, or any step."""
    if rows == 0:
        return "any step"
    return "decode 1" if rows == 1 else f"decode ≤{rows}"


def passes_of(compilation: Compilation) -> list[dict[str, Any]]:
    """Return what each pass did: once, where regimes share it, and by regime where they do not."""
    regimes: dict[int, list[str]] = {}
    if compilation.remote is None and "regimes" in vars(compilation):
        for regime in compilation.regimes:
            for record in regime.records:
                regimes.setdefault(id(record), []).append(regime_name(regime.rows))
        shared = len(compilation.regimes)
        regimes = {key: names for key, names in regimes.items() if len(names) < shared}
    source = compilation.opened.source.name
    return [
        pass_entry(record, regimes.get(id(record), []), source) for record in compilation.records
    ]


def pass_entry(record: PassRecord, regimes: list[str], source: str) -> dict[str, Any]:
    """Return what one pass did, as the page lists it."""
    remarks = [
        {"did": one.done, "text": one.message,
         "line": one.span.line if one.span and one.span.source == source else 0}
        for one in record.remarks
    ]  # fmt: skip
    first = next(iter(record.after.walk()), None)
    return {
        "name": record.name, "regime": ", ".join(regimes),
        "dialect": first.dialect if first else "",
        "ms": round(1000 * record.seconds, 2), "changed": record.changed,
        "counts": record.counts(), "remarks": remarks,
        "diff": record.diff().splitlines() if record.changed else [],
    }  # fmt: skip


def _ast(compilation: Compilation) -> dict[str, Any]:
    lines, links = [], []
    for line in dump(compilation.ast).splitlines():
        place = _PLACE.search(line)
        lines.append(_PLACE.sub("", line))
        links.append([int(place[1]), int(place[1])] if place else None)
    return listing("ast", "AST", "the parsed program", "python", lines, links)


def problem_of(error: WeftError, stage: str) -> dict[str, Any]:
    """Return an error as the page shows it: what, where, and the hint."""
    span = error.span
    return {
        "stage": stage, "kind": error.kind, "message": error.message, "hint": error.hint_text,
        "line": span.line if span else 0, "column": span.column if span else 0,
        "place": str(span) if span else "",
        "notes": [{"text": note.message, "line": note.span.line if note.span else 0}
                  for note in error.notes],
    }  # fmt: skip
