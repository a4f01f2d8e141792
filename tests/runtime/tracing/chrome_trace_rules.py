"""The rules of the Chrome trace format that a viewer relies on, as a checker of a document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]
PHASES = {"X", "C", "M", "s", "t", "f"}
NEEDED = {
    "X": {"ts", "dur"},
    "C": {"ts", "args"},
    "M": {"args"},
    **{p: {"ts", "id", "cat"} for p in "stf"},
}
SLACK = 0.0015
"""Microseconds: times are written in whole nanoseconds."""


def problems(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a trace; nothing for one that every viewer shows whole."""
    events = document["traceEvents"]
    return [*_shape(events), *_nesting(events), *_flows(events), *_order(events)]


def _shape(events: list[Event]) -> Iterator[str]:
    for event in events:
        missing = (
            {"name", "ph", "pid", "tid"} | NEEDED.get(event.get("ph", ""), set())
        ) - event.keys()
        if event.get("ph") not in PHASES or missing:
            yield f"shape: {event} lacks {missing}"
        if event.get("dur", 0) < 0 or event.get("ts", 0) < 0:
            yield f"shape: negative time in {event}"
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    used = {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    yield from (f"shape: thread {thread} has no name" for thread in used - named)


def slices(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    """Return the X events of each thread, outer before inner."""
    found: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(event)
    for thread in found.values():
        thread.sort(key=lambda event: (event["ts"], -event["dur"]))
    return found


def _nesting(events: list[Event]) -> Iterator[str]:
    """Yield slices of one thread that overlap without one holding the other."""
    for thread, found in slices(events).items():
        open_: list[Event] = []
        for event in found:
            while open_ and open_[-1]["ts"] + open_[-1]["dur"] <= event["ts"] + SLACK:
                open_.pop()
            end = event["ts"] + event["dur"]
            if open_ and end > open_[-1]["ts"] + open_[-1]["dur"] + SLACK:
                yield f"nesting: {event['name']} leaves {open_[-1]['name']} on {thread}"
            open_.append(event)


def _flows(events: list[Event]) -> Iterator[str]:
    """Yield flows that do not go s, t ..., f in time, or whose ends are inside no slice."""
    flows: dict[tuple[str, Any], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["cat"], event["id"]].append(event)
    threads = slices(events)
    for key, flow in flows.items():
        phases = "".join(event["ph"] for event in flow)
        if phases != "s" + "t" * (len(flow) - 2) + "f":
            yield f"flow: {key} goes {phases}"
        if any(a["ts"] > b["ts"] for a, b in zip(flow, flow[1:], strict=False)):
            yield f"flow: {key} goes back in time"
        for event in flow:
            inside = threads[event["pid"], event["tid"]]
            if not any(
                s["ts"] - SLACK <= event["ts"] <= s["ts"] + s["dur"] + SLACK for s in inside
            ):
                yield f"flow: {key} binds to nothing at {event['ts']}"


def _order(events: list[Event]) -> Iterator[str]:
    """Yield counters whose times go back."""
    last: dict[tuple[int, str], float] = {}
    for event in events:
        if event["ph"] == "C":
            key = event["pid"], event["name"]
            if event["ts"] < last.get(key, 0.0):
                yield f"counter: {event['name']} goes back in time"
            last[key] = event["ts"]
            if not event["args"] or not all(
                isinstance(v, int | float) for v in event["args"].values()
            ):
                yield f"counter: {event['name']} has no numbers"
