"""When keys and values are made and read: of a plan before it runs, and of a run, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.core import Module, Operation, walk
from .style import FAINT, INK, Picture, colour, picture


@dataclass(frozen=True)
class Stretch:
    """The tokens that one operation of a plan adds, by operation numbers; `last` None: unread."""

    label: str
    line: int | None
    made: int
    first: int | None
    last: int | None
    reads: int
    again: bool
    keep: str


def stretches(plan: Module, program: str) -> list[Stretch]:
    """Return what `kv-lifetimes` wrote on the operations of a plan, in program order."""
    function = plan.symbol(program)
    return [
        _stretch(operation)
        for operation in walk(function.regions[0].operations)
        if operation.attribute("lifetime") is not None
    ]


def lifetime_chart(plan: Module, program: str) -> Picture:
    """Return one bar a stretch of KV, from the operation that makes it to the last that reads it.

    A dot is the first read; a bar with a thick edge is read again in a loop or a fork.
    """
    found = stretches(plan, program)
    figure, axes = picture(8, 0.9 + 0.27 * len(found))
    for number, stretch in enumerate(found):
        last = stretch.made if stretch.last is None else stretch.last
        shade = colour(2) if stretch.keep == "batch" else colour(0)
        axes.barh(
            number, max(last - stretch.made, 0.4), left=stretch.made, height=0.6,
            color=FAINT if stretch.last is None else shade, edgecolor=INK,
            linewidth=1.8 if stretch.again else 0.3,
        )  # fmt: skip
        if stretch.first is not None:
            axes.plot(stretch.first, number, "o", color="white", markersize=4, markeredgecolor=INK)
        many = f"{stretch.reads} read{'s' * (stretch.reads != 1)}"
        told = "never read" if stretch.last is None else many
        axes.text(max(last, stretch.made + 0.4) + 0.4, number, told, va="center", fontsize=7)
    axes.set_yticks(range(len(found)), [_named(stretch) for stretch in found], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("operation number in the plan", fontsize=8)
    axes.set_title(
        "KV lifetimes: blue dies with its row, green serves all rows, grey is never read",
        fontsize=9, loc="left",
    )  # fmt: skip
    return figure


def step_chart(steps: Sequence[Any], capacity: int | None = None) -> Picture:
    """Return a run's steps (`StepRecord`s): tokens computed by kind, and KV pages in use.

    Live pages are held by sequences, cached ones by the prefix tree alone. `capacity` is the KV
    memory in pages, drawn as a line where it comes near.
    """
    figure, (top, below) = picture(9, 2.8, columns=2)
    at = range(len(steps))
    decode = [step.running for step in steps]
    prefill = [step.prefill_tokens for step in steps]
    top.bar(at, decode, width=1.0, color=colour(0), label="decode")
    top.bar(at, prefill, width=1.0, bottom=decode, color=colour(4), label="prefill")
    top.set_title("tokens computed in each step", fontsize=9, loc="left")
    pages = [[step.live_pages for step in steps], [step.cached_pages for step in steps]]
    below.stackplot(at, *pages, step="mid", colors=(colour(0), FAINT), labels=("live", "cached"))
    most = max(map(sum, zip(*pages, strict=True)), default=1)
    if capacity is not None and capacity < 3 * most:
        below.axhline(capacity, color=colour(1), linewidth=1)
        below.text(0, capacity, "capacity", fontsize=7, color=colour(1), va="bottom")
    below.set_ylim(bottom=0)
    below.set_title("KV pages in use", fontsize=9, loc="left")
    for axes in (top, below):
        axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("step", fontsize=8)
    return figure


def memory_chart(runs: Mapping[float, Any]) -> Picture:
    """Return hits, predicted and measured, and preemptions over the KV memory, from runs' `Stats`.

    Keys are the KV memory in MiB.
    """
    sizes = sorted(runs)
    figure, (hits, waits) = picture(9, 2.8, columns=2)
    predicted = [runs[size].hits_predicted for size in sizes]
    measured = [runs[size].hits_measured for size in sizes]
    hits.plot(sizes, predicted, "--", color=INK, linewidth=1, label="predicted: a cache that keeps")
    hits.plot(sizes, measured, "o-", color=colour(0), label="measured")
    hits.set_ylim(0, 1.1 * max(predicted, default=1))
    hits.set_title("prefix hits (tokens)", fontsize=9, loc="left")
    hits.legend(fontsize=7, frameon=False, loc="lower right")
    waits.plot(sizes, [runs[size].preemptions for size in sizes], "o-", color=colour(1))
    waits.set_ylim(bottom=0)
    waits.set_title("preemptions", fontsize=9, loc="left")
    for axes in (hits, waits):
        axes.set_xlabel("KV memory (MiB)", fontsize=8)
    return figure


def _stretch(operation: Operation) -> Stretch:
    life = dict(operation["lifetime"].items)
    line = operation.span.line if operation.span is not None else None
    return Stretch(
        operation.attribute("name") or operation.results[0].name, line, life["at"],
        life.get("first"), life.get("last"), life["reads"], bool(life.get("again")), life["keep"],
    )  # fmt: skip


def _named(stretch: Stretch) -> str:
    return stretch.label if stretch.line is None else f"{stretch.label} (line {stretch.line})"
