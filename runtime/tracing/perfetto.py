"""A trace in the Chrome trace format, which ui.perfetto.dev and chrome://tracing open.

Three processes: the host (its step loop, its tools), the device (steps, and inside them launches),
and the program instances (statements, on as many lanes as run side by side). One flow per instance
leads from its statements to the steps that worked for them. Counters: sequences that run, KV
pages, prefix hits. Times are microseconds from the first event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .trace import InstanceRecord, StepRecord, Trace, WaitRecord

Event = dict[str, Any]
HOST, DEVICE, PROGRAM = 1, 2, 3
LOOP, TOOLS = 1, 100
Stop = tuple[float, int, int]
LANES = 1000
"""Threads of the program process: instance * LANES + lane."""


def chrome_trace(trace: Trace) -> str:
    """Return a trace as a JSON object with `traceEvents`, in the order of time."""
    times = [step.start for step in trace.steps] + [one.start for one in trace.instances]
    times += [wait.start for wait in trace.waits]
    writer = _Writer(min(times, default=0.0))
    events = [*writer.host(trace), *writer.device(trace), *writer.program(trace)]
    names = [event for event in events if event["ph"] == "M"]
    timed = sorted((event for event in events if event["ph"] != "M"),
                   key=lambda event: (event["ts"], -event.get("dur", 0.0)))  # fmt: skip
    document = {"displayTimeUnit": "ms", "traceEvents": [*names, *timed]}
    return json.dumps(document, separators=(",", ":"))


def device_spans(trace: Trace) -> Iterator[tuple[StepRecord, float, float]]:
    """Yield each step with the seconds in which the device was at it.

    Where the host waits, that is while it waited. Where it runs ahead, from the launch, or the end
    of the step before, to the moment when the draw was there.
    """
    free = 0.0
    for step in trace.steps:
        if not trace.ahead:
            yield step, step.packed, step.computed
        elif step.landed:
            start = max(step.packed, free)
            free = max(step.landed, start)
            yield step, start, free


def lanes(waits: Iterable[WaitRecord]) -> Iterator[tuple[int, WaitRecord]]:
    """Yield (lane, wait): the first lane of its instance that is free when it begins."""
    busy: dict[int, list[float]] = {}
    for wait in sorted(waits, key=lambda wait: (wait.start, -wait.end)):
        if not wait.end:
            continue
        ends = busy.setdefault(wait.instance, [])
        lane = next((at for at, end in enumerate(ends) if end <= wait.start), len(ends))
        ends[lane:] = [wait.end, *ends[lane + 1 :]]
        yield lane, wait


class _Writer:
    def __init__(self, origin: float) -> None:
        self._origin = origin

    def host(self, trace: Trace) -> Iterator[Event]:
        """Yield the step loop, the tools and the counters."""
        yield from (_name("process", HOST, 0, "host"), _name("thread", HOST, LOOP, "step loop"))
        for step in trace.steps:
            yield self._slice(HOST, LOOP, f"step {step.number}", step.start, step.ended,
                              {"work": step.name, "kv_tokens": step.kv_tokens})  # fmt: skip
            parts = (
                ("schedule", step.start, step.packed), ("model", step.packed, step.computed),
                ("draw", step.computed, step.drawn), ("advance", step.drawn, step.ended),
            )  # fmt: skip
            yield from (self._slice(HOST, LOOP, *part) for part in parts)
            yield from self._counters(step, trace)
        tools = [wait for wait in trace.waits if wait.kind == "tool"]
        for lane, wait in _together(tools):
            yield _name("thread", HOST, TOOLS + lane, "tools")
            yield self._slice(HOST, TOOLS + lane, wait.name, wait.start, wait.end, _about(wait))

    def device(self, trace: Trace) -> Iterator[Event]:
        """Yield each step on the device with its launches inside."""
        yield from (_name("process", DEVICE, 0, "device"), _name("thread", DEVICE, 1, "model"))
        for step, start, end in device_spans(trace):
            about = {"step": step.number, "launches": len(step.kernels)}
            yield self._slice(DEVICE, 1, step.name, start, end, about)
            for one in step.kernels:
                yield self._slice(DEVICE, 1, one.kernel, max(one.start, start), min(one.end, end),
                                  {"computes": one.operation})  # fmt: skip

    def program(self, trace: Trace) -> Iterator[Event]:
        """Yield each instance with its statements, and its flow to the device."""
        yield _name("process", PROGRAM, 0, "program instances")
        placed = list(lanes(trace.waits))
        last = max((wait.end for wait in trace.waits), default=0.0)
        for one in trace.instances:
            row, thread = f"row {one.row}", one.instance * LANES
            yield _name("thread", PROGRAM, thread, row)
            end = one.end or max(last, one.start)
            yield self._slice(PROGRAM, thread, row, one.start, end, {"instance": one.instance})
        named: set[int] = set()
        for lane, wait in placed:
            thread = _thread(wait.instance, lane)
            if thread not in named:
                named.add(thread)
                yield _name("thread", PROGRAM, thread, f"row {wait.row}, lane {lane + 1}")
            yield self._slice(PROGRAM, thread, wait.name, wait.start, wait.end, _about(wait))
        stops = _stops(placed, trace)
        for one in trace.instances:
            yield from self._flow(one, stops.get(one.instance, []))

    def _flow(self, one: InstanceRecord, stops: list[Stop]) -> Iterator[Event]:
        """Yield the arrows from stop to stop, in the order of time; one alone needs none."""
        stops.sort()
        for at, (time, process, thread) in enumerate(stops if len(stops) > 1 else ()):
            last = at == len(stops) - 1
            event = {
                "name": f"row {one.row}", "cat": "instance", "id": one.instance + 1,
                "ph": "s" if at == 0 else "f" if last else "t",
                "ts": self._us(time), "pid": process, "tid": thread,
            }  # fmt: skip
            yield event | ({"bp": "e"} if last else {})

    def _counters(self, step: StepRecord, trace: Trace) -> Iterator[Event]:
        amounts = {
            "sequences": {"running": step.running},
            "KV pages": {"live": step.live_pages, "cached": step.cached_pages},
            "KV bytes": {"live": step.live_pages * trace.page_bytes},
            "prefix hits": {"measured": step.hits_measured, "predicted": step.hits_predicted},
        }
        for name, values in amounts.items():
            yield {"name": name, "ph": "C", "ts": self._us(step.drawn), "pid": HOST, "tid": 0,
                   "args": values}  # fmt: skip

    def _us(self, time: float) -> float:
        return round((time - self._origin) * 1e9) / 1000

    def _slice(
        self, process: int, thread: int, name: str, start: float, end: float,
        about: dict[str, Any] | None = None,
    ) -> Event:  # fmt: skip
        ts, until = self._us(start), self._us(max(start, end))
        event: Event = {"name": name, "ph": "X", "ts": ts, "dur": round(until - ts, 3),
                        "pid": process, "tid": thread}  # fmt: skip
        return event | ({"args": about} if about else {})


def _stops(placed: list[tuple[int, WaitRecord]], trace: Trace) -> dict[int, list[Stop]]:
    """Return where each instance's flow comes by: its statements, and the steps for them."""
    found: dict[int, list[Stop]] = {}
    owners: dict[int, int] = {}
    for lane, wait in placed:
        if wait.kind != "tool":
            owners[wait.number] = wait.instance
            thread = _thread(wait.instance, lane)
            found.setdefault(wait.instance, []).append((wait.start, PROGRAM, thread))
    for step, start, end in device_spans(trace):
        served = {owners[number] for number, _ in step.requests if number in owners}
        for instance in served if end > start else ():
            found[instance].append((start, DEVICE, 1))
    return found


def _thread(instance: int, lane: int) -> int:
    return instance * LANES + lane + 1


def _together(tools: list[WaitRecord]) -> Iterator[tuple[int, WaitRecord]]:
    """Yield (lane, tool) over all instances: the host's threads."""
    ends: list[float] = []
    for wait in sorted((one for one in tools if one.end), key=lambda wait: wait.start):
        lane = next((at for at, end in enumerate(ends) if end <= wait.start), len(ends))
        ends[lane:] = [wait.end, *ends[lane + 1 :]]
        yield lane, wait


def _name(what: str, process: int, thread: int, name: str) -> Event:
    return {
        "name": f"{what}_name",
        "ph": "M",
        "pid": process,
        "tid": thread,
        "args": {"name": name},
    }


def _about(wait: WaitRecord) -> dict[str, Any]:
    place = str(wait.span) if wait.span is not None else ""
    return {"statement": place, "row": wait.row, "prompt_tokens": wait.prompt_tokens,
            "new_tokens": wait.new_tokens}  # fmt: skip
