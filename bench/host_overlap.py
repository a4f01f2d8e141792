"""Where the host's time goes on a device that runs ahead: no GPU needed, no figure comes from here.

    python -m bench.host_overlap w2 react              steps one by one, as bench.gpu_profile prints
    python -m bench.host_overlap w2 --slower 2.6       by the time of the host's processor alone
    python -m bench.host_overlap chat --host --speed 0  the host's functions; steps take no time
    python -m bench.host_overlap chat --without-code    rows gone through operation by operation

The device only takes time: a step's tokens at a rate, but no less than a decode step; the host
sleeps for the launches of steps that are not recorded, and does all else in earnest: texts,
schedules, attention lists. What is drawn is words at random, or what a constraint allows.
With --slower what else the machine does changes nothing (`host_clock`). What rows take for a call
is all that their programs do between an answer and the next call, without what the engine does.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

from weft.bench.contest.cases import CASES, Case
from weft.bench.contest.contest import Bench, Contest, Way
from weft.bench.gpu.timed_device import TimedDevice, waits_text
from weft.bench.gpu.workloads import WORKLOADS, Words, Workload
from weft.bench.gpu_profile import steps_text
from weft.bench.host_clock import HostClock, told_by
from weft.bench.programs_gpu import CLIENTS, SHAPE, rows_of, word_ids
from weft.compiler import Compilation
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.options import Options
from weft.runtime.executable import Executable
from weft.runtime.programs.tasks import TaskLoop
from weft.runtime.tracing.trace import Trace

Measured = Callable[[Callable[[], Any]], Any]
"""Runs what is given to it, and perhaps prints something of it."""


class RowTime:
    """Seconds of the host's processor in which rows go from an answer to their next call."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._deep = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count what rows take meanwhile: tasks that run, but for what the engine is asked."""
        resume, ask = TaskLoop._resume, TaskLoop._ask

        def resumed(loop: TaskLoop, *given: Any) -> None:
            began = time.thread_time()
            self._deep += 1
            try:
                resume(loop, *given)
            finally:
                self._deep -= 1
                if not self._deep:  # a task starts others, which run as far as they get
                    self.seconds += time.thread_time() - began

        def asked(loop: TaskLoop, *given: Any) -> None:
            began = time.thread_time()
            ask(loop, *given)
            self.seconds -= time.thread_time() - began
            self.calls += 1

        with patch.object(TaskLoop, "_resume", resumed), patch.object(TaskLoop, "_ask", asked):
            yield


class TimedBench(Bench):
    """A bench whose programs run on a timed device."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__(SHAPE, Options.from_env().changed(prove=False))
        checkpoint = open_checkpoint(SHAPE)
        tokenizer = checkpoint.tokenizer
        self.device = TimedDevice(checkpoint.config.vocab_size, word_ids(tokenizer), speed=speed)

    def compile(self, case: Case) -> Compilation:
        """Compile a program's text for the device."""
        compilation = Compilation(case.path, self.model, name=case.program, options=self.options)
        for name in ("executor", "sampler"):
            compilation.__dict__[name] = self.device
        return compilation


def run_program(
    bench: TimedBench, case: Case, rounds: int, measured: Measured, clients: bool = False
) -> None:
    """Run a program's rows cold, after a run that warms up Python; or clients of the engine."""
    contest, host = Contest(bench, case, rows_of(case)), []
    way = Way(kv_tokens=0, clients=CLIENTS)
    run = contest.requests if clients else contest.weft
    run(way)
    for _ in range(rounds):
        began = time.thread_time()
        run(way)
        host.append(time.thread_time() - began)
    rows = RowTime()
    with rows.taken():
        run(way)
    bench.device.waits.clear()
    found = measured(lambda: run(replace(way, noted=True)))
    steps = found.trace.steps
    print(steps_text(steps, steps[0].start))
    print(waits_text(bench.device.waits, [step.start for step in steps]))
    name = f"{case.name} by clients" if clients else case.name
    print(
        f"{name}: {1e3 * found.seconds:.1f} ms, {len(steps)} steps; of the host's processor "
        f"{1e3 * min(host):.1f} to {1e3 * max(host):.1f} ms in {rounds} runs, of which rows take "
        f"{1e6 * rows.seconds / max(1, rows.calls):.1f} us for each of {rows.calls} calls"
    )


def run_workload(bench: TimedBench, workload: Workload, measured: Measured) -> None:
    """Run a workload cold on a timed device, after a run that warms up Python."""
    compilation = Compilation(workload.program, SHAPE, options=bench.options)
    tokenizer = open_checkpoint(SHAPE).tokenizer
    words, device = Words(tokenizer), cast(Any, bench.device)
    for seed in range(2):
        trace = Trace(kernels=False)
        executable = Executable(
            compilation.plan, compilation.program_name, device, tokenizer,
            sample=device, trace=trace,
        )  # fmt: skip
        rows = workload.rows(words, seed)
        gc.collect()
        began = time.perf_counter()
        if seed:
            measured(partial(executable.run_rows, rows))
            print(steps_text(trace.steps, began))
            print(f"{workload.name}: {1e3 * (time.perf_counter() - began):.1f} ms")
        else:
            executable.run_rows(rows)


def main() -> None:
    """Run the workloads and programs that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=[*WORKLOADS, *CASES])
    parser.add_argument("--host", action="store_true", help="also the host's functions")
    parser.add_argument("--top", type=int, default=30, help="functions that are listed")
    parser.add_argument("--sort", default="tottime", help="how functions are ordered")
    parser.add_argument("--clients", action="store_true", help="requests in a program's place")
    parser.add_argument("--rounds", type=int, default=3, help="runs whose host time is taken")
    parser.add_argument(
        "--slower", type=float, default=0.0,
        help="processor seconds count so many times (an H200's host: 2.6); 0: by the wall's clock",
    )  # fmt: skip
    parser.add_argument("--speed", type=float, default=1.0, help="of a step's seconds, this part")
    parser.add_argument(
        "--without-code", action="store_true",
        help="go through the operations of programs that have code written for their rows",
    )  # fmt: skip
    options = parser.parse_args()

    def measured(run: Callable[[], Any]) -> Any:
        if not options.host:
            return run()
        profile = cProfile.Profile()
        found = profile.runcall(run)
        pstats.Stats(profile).sort_stats(options.sort).print_stats(options.top)
        return found

    bench = TimedBench(options.speed)
    clock = told_by(HostClock(options.slower)) if options.slower else nullcontext()
    plain = nullcontext()
    if options.without_code:
        plain = patch("weft.runtime.programs.machine.row_code", lambda *given: {})
    with clock, plain, patch("weft.runtime.schedule.scoring.Found", bench.device.found):
        for name in options.names:
            if name in CASES:
                run_program(bench, CASES[name], options.rounds, measured, options.clients)
            else:
                run_workload(bench, WORKLOADS[name], measured)


if __name__ == "__main__":
    main()
