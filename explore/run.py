"""What a run of the program shows: its timeline, its memory, and which kernels it launched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..compiler import Compilation
from ..ir.core import Module, walk
from ..ir.display.timeline import Interval, Timeline, Track
from ..ir.display.units import counted
from ..runtime.tracing.trace import Trace


def run_rows(compilation: Compilation, rows: Sequence[Mapping[str, Any]]) -> tuple[Trace, Any]:
    """Run rows on the compiled model; return the trace, and the rows' results."""
    executable = compilation.executable()
    results = executable.run_rows(rows, keep_going=True)
    assert executable.engine.trace is not None
    return executable.engine.trace, results


def measured_kernels(trace: Trace) -> dict[str, dict[str, Any]]:
    """Return of each kernel that was launched how often, and the median microseconds."""
    times: dict[str, list[float]] = {}
    for step in trace.steps:
        for one in step.kernels:
            times.setdefault(one.kernel, []).append(1e6 * (one.end - one.start))
    return {name: {"launches": len(found), "us": round(median(found), 2)}
            for name, found in times.items()}  # fmt: skip


def launched_for(trace: Trace, source: str) -> dict[str, list[str]]:
    """Return the kernels that really worked for each source line, by the steps of its requests."""
    lines = {wait.number: wait.span.line for wait in trace.waits
             if wait.span is not None and wait.span.source == source}  # fmt: skip
    found: dict[int, dict[str, None]] = {}
    for step in trace.steps:
        kernels = dict.fromkeys(one.kernel for one in step.kernels)
        for number, _ in step.requests:
            if number in lines:
                found.setdefault(lines[number], {}).update(kernels)
    return {str(line): list(kernels) for line, kernels in sorted(found.items())}


def lifetimes(plan: Module, program: str) -> Timeline | None:
    """Return when the plan makes each stretch of KV and reads it last, by operation number."""
    tracks = []
    for operation in walk(plan.symbol(program).regions[0].operations):
        table = operation.attribute("lifetime")
        if table is None:
            continue
        made, last = table["at"], table.get("last", table["at"])
        line = operation.span.line if operation.span else 0
        kind = "never read again" if "last" not in dict(table.items) else "kept for all rows"
        kind = kind if table["keep"] == "batch" or kind.startswith("never") else "kept for its row"
        name = f"%{operation.results[0].name}"
        said = f"{operation.name}, line {line}: {counted(table['reads'], 'read')}"
        bar = Interval(float(made), float(max(last, made) + 0.8), said, kind, f"line-{line}")
        tracks.append(Track(f"{name} · line {line}", (bar,)))
    if not tracks:
        return None
    return Timeline("KV lifetimes in the plan", tuple(tracks), 900, "operation of the plan")
