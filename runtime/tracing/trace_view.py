"""A trace to look at: who worked when, and what memory it took."""

from __future__ import annotations

from ...ir.display.timeline import Amounts, Interval, Series, Timeline, Track
from ...ir.display.units import bytes_text, seconds_text
from ...ir.display.view import Facts, Figure, View
from .perfetto import device_spans, lanes
from .trace import Trace

COLOURS = (
    ("host", "dim"), ("prefill", "purple"), ("decode", "teal"), ("tool", "red"),
    ("fill", "blue"), ("gen", "orange"), ("score", "green"),
)  # fmt: skip
MOST_TRACKS = 24
"""Lanes of program instances that a picture shows."""


def trace_view(trace: Trace) -> View:
    """Return a run's figures, its timeline, and its KV memory over time."""
    model = sum(end - start for _, start, end in device_spans(trace))
    draws = sum(step.drawn - step.computed for step in trace.steps)
    whole = sum(step.ended - step.start for step in trace.steps)
    peak = max((step.live_pages for step in trace.steps), default=0)
    facts = (
        ("steps", f"{len(trace.steps):,}"), ("in steps", seconds_text(whole)),
        ("model", seconds_text(model)), ("draws", seconds_text(draws)),
        ("prefix hits", f"{trace.hits_measured:,} tokens"),
        ("peak KV", f"{peak:,} pages, {bytes_text(peak * trace.page_bytes)}"),
    )  # fmt: skip
    figures = (Figure(gantt(trace), lanes_said(trace)), Figure(memory(trace), "KV memory"))
    title = f"{len(trace.instances)} program instances"
    return View("trace", title, (Facts(facts), *figures))


def lanes_said(trace: Trace) -> str:
    """Return the caption of the timeline, which says what it leaves out."""
    count = len({(wait.instance, lane) for lane, wait in lanes(trace.waits)})
    left = f" (the first {MOST_TRACKS} of {count} lanes)" if count > MOST_TRACKS else ""
    return f"who worked when{left}"


def gantt(trace: Trace, width: float = 720.0) -> Timeline:
    """Return the run as tracks: the host, the device, then the lanes of each instance."""
    host = tuple(
        Interval(start, end, f"{name}, step {step.number}", "host")
        for step in trace.steps
        for name, start, end in (
            ("schedule", step.start, step.packed), ("draw", step.computed, step.drawn),
            ("advance", step.drawn, step.ended),
        )
    )  # fmt: skip
    device = tuple(
        Interval(start, end, f"{step.name}, step {step.number}",
                 "prefill" if step.prefill_tokens else "decode")
        for step, start, end in device_spans(trace)
    )  # fmt: skip
    rows: dict[tuple[int, int, int], list[Interval]] = {}
    for lane, wait in lanes(trace.waits):
        line = wait.span.line if wait.span is not None else 0
        key = f"line-{line}" if line else ""
        one = Interval(wait.start, wait.end, wait.name, wait.kind, key)
        rows.setdefault((wait.instance, lane, wait.row), []).append(one)
    shown = [(f"row {row}" if not lane else f"· {lane + 1}", found)
             for (_, lane, row), found in sorted(rows.items())[:MOST_TRACKS]]  # fmt: skip
    tracks = [Track("host", host), Track("device", device)]
    tracks += [Track(name, tuple(found)) for name, found in shown]
    return Timeline("who worked when", tuple(tracks), width, colours=COLOURS)


def memory(trace: Trace, width: float = 720.0) -> Amounts:
    """Return the KV pages in use, and those that are kept for who asks again, over time."""
    starts = [one.start for one in (*trace.instances, *trace.steps)]
    pages = [(min(starts, default=0.0), 0, 0)]
    pages += [(step.drawn, step.live_pages, step.cached_pages) for step in trace.steps]
    live = Series("live", tuple((time, float(live)) for time, live, _ in pages))
    kept = Series("live and cached", tuple((time, float(a + b)) for time, a, b in pages))
    return Amounts(
        "KV memory over time", (kept, live), "pages", trace.num_pages, "all pages", width
    )
