"""Where a workload's seconds go on a GPU: its steps one by one, and its kernels by their sum.

    python -m bench.gpu_profile w2 w3         the steps of a cold run, then the kernels of another
    python -m bench.gpu_profile w1 --top 20        more kernels

No figure comes from here: the first run warms up, the second is traced, the third profiled.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from weft.bench.gpu.workloads import WORKLOADS, Workload
from weft.bench.gpu_programs import SHAPE, Bench, say
from weft.runtime.tracing.trace import StepRecord, Trace


def steps_text(steps: Sequence[StepRecord], began: float) -> str:
    """Return a line a step, in milliseconds since the run began; equal decode steps are joined."""
    lines, at = [], 0
    while at < len(steps):
        step, last = steps[at], at
        while not step.prefill_tokens and last + 1 < len(steps) and _same(step, steps[last + 1]):
            last += 1
        count, end = last - at + 1, steps[last]
        host = sum(one.host_seconds for one in steps[at : last + 1]) / count
        launch = sum(one.model_seconds for one in steps[at : last + 1]) / count
        landed = end.landed or end.ended
        lines.append(
            f"{1e3 * (step.start - began):8.1f} to {1e3 * (landed - began):8.1f}  {count:3d} x "
            f"{step.name:28s} host {1e3 * host:6.2f}  launch {1e3 * launch:6.2f}  a step "
            f"{1e3 * (landed - step.start) / count:6.2f}"
        )
        at = last + 1
    return "\n".join(lines)


def _same(step: StepRecord, other: StepRecord) -> bool:
    return not other.prefill_tokens and step.running == other.running


def traced(bench: Bench, workload: Workload) -> None:
    """Print the steps of a cold run."""
    rows, trace = workload.rows(bench.words, 1), Trace(kernels=False)
    executable = bench.executable(bench.compilation(workload), trace)
    gc.collect()
    began = time.perf_counter()
    executable.run_rows(rows)
    ended = time.perf_counter()
    say(f"{workload.name}: {1e3 * (ended - began):.1f} ms, {len(trace.steps)} steps")
    say(steps_text(trace.steps, began))


def host_profile(bench: Bench, workload: Workload, top: int) -> None:
    """Print the host's functions of a cold run by their own time."""
    compilation = bench.compilation(workload)
    rows, executable = workload.rows(bench.words, 3), bench.executable(compilation)
    profile = cProfile.Profile()
    profile.runcall(executable.run_rows, rows)
    pstats.Stats(profile).sort_stats("tottime").print_stats(top)


@dataclass(frozen=True)
class Busy:
    """Something that ran on the device: its name, and microseconds since some beginning."""

    name: str
    start: float
    end: float


def idle_text(ran: Sequence[Busy], most: int, least: float = 200.0) -> str:
    """Return how long nothing ran between the first and the last, and where for `least` us."""
    lines, total, last = [], 0.0, None
    for one in sorted(ran, key=lambda busy: busy.start):
        if last is not None and one.start > last.end:
            total += one.start - last.end
            if one.start - last.end >= least:
                lines.append((one.start - last.end, last, one))
        if last is None or one.end > last.end:
            last = one
    if last is None:
        return "nothing ran"
    first = min(busy.start for busy in ran)
    places = [
        f"{gap / 1e3:9.2f} ms at {(before.end - first) / 1e3:8.1f}, after {short(before.name)}, "
        f"before {short(after.name)}"
        for gap, before, after in sorted(lines, key=lambda line: -line[0])[:most]
    ]
    return "\n".join([f"idle {total / 1e3:.1f} of {(last.end - first) / 1e3:.1f} ms", *places])


FIRST = "feed_tokens"
"""The kernel that every step begins with."""


def steps_of(ran: Sequence[Busy]) -> list[list[tuple[str, float]]]:
    """Return the kernels of each step in the order of their ends, with the microseconds that each
    takes alone: from the end of what ended last before it, as it is launched while that runs."""
    steps: list[list[tuple[str, float]]] = []
    last = 0.0
    for one in sorted(ran, key=lambda busy: busy.end):
        if one.name.startswith(FIRST) or not steps:
            steps.append([])
        steps[-1].append((one.name, one.end - max(last, one.start)))
        last = one.end
    return steps


def shares_text(steps: Sequence[Sequence[tuple[str, float]]], top: int, most: float = 1e4) -> str:
    """Return the milliseconds of each step, then what kernels take alone in one of those shorter
    than `most` microseconds, in the mean, and in all the others."""
    sums = [sum(taken for _, taken in step) for step in steps]
    lines = [f"steps {' '.join(f'{taken / 1e3:.2f}' for taken in sums)}"]
    for name, short_ones in (("a step of", True), ("all of", False)):
        chosen = [step for step, taken in zip(steps, sums, strict=True)
                  if (taken < most) is short_ones]  # fmt: skip
        by_kernel: dict[str, list[float]] = {}
        for kernel, taken in (pair for step in chosen for pair in step):
            by_kernel.setdefault(kernel, []).append(taken)
        lines.append(f"{name} {len(chosen)} {'shorter' if short_ones else 'longer'} ones:")
        whole = max(1, len(chosen)) if short_ones else 1
        for kernel, times in sorted(by_kernel.items(), key=lambda pair: -sum(pair[1]))[:top]:
            lines.append(f"{sum(times) / whole / 1e3:9.3f} ms {len(times) / whole:7.1f} x "
                         f"{sum(times) / len(times):8.2f} us  {short(kernel)}")  # fmt: skip
    return "\n".join(lines)


def short(name: str) -> str:
    """Return a kernel's name without what all of torch's begin with."""
    inner = name.replace("at::native::", "").replace("(anonymous namespace)::", "")
    return inner.removeprefix("void ").replace("gpu_kernel_impl_nocast", "")[:70]


def kernels(bench: Bench, workload: Workload, top: int) -> None:
    """Print the kernels of a cold run by their sum, and when none ran."""
    from torch.profiler import ProfilerActivity, profile

    compilation = bench.compilation(workload)
    rows, executable = workload.rows(bench.words, 2), bench.executable(compilation)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        executable.run_rows(rows)
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    say(f"{workload.name}: kernels {total / 1e3:.1f} ms")
    for event in events[:top]:
        say(f"{event.self_device_time_total / 1e3:9.2f} ms {event.count:6d} x {short(event.key)}")
    ran = [
        Busy(event.name, event.time_range.start, event.time_range.end)
        for event in found.events() or ()
        if event.device_type.name == "CUDA"
    ]
    say(f"{workload.name}: {idle_text(ran, top)}")
    say(shares_text(steps_of(ran), top))


def main() -> None:
    """Profile the workloads that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--model", default=SHAPE, help="a shape, or a folder")
    parser.add_argument("--top", type=int, default=14, help="kernels that are listed")
    parser.add_argument("--host", action="store_true", help="also the host's functions")
    options = parser.parse_args()
    bench = Bench(options.model, 1, {})
    for name in options.workloads:
        workload = WORKLOADS[name]
        bench.executable(bench.compilation(workload)).run_rows(workload.rows(bench.words, 0))
        traced(bench, workload)
        kernels(bench, workload, options.top)
        if options.host:
            host_profile(bench, workload, options.top)


if __name__ == "__main__":
    main()
