"""The host's side of a GPU's engine without the GPU: a device that only takes time.

    python -m bench.host_overlap w2 w3 w1            the steps of a cold run, and its seconds
    python -m bench.host_overlap w2 --host --top 30  also the host's functions

Steps take what an H200 took for an 8 B shape (`PROMPT`, `STEP`); the host sleeps for the launches
of steps that are not recorded, and does all else in earnest: texts, schedules, attention lists.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from weft.bench.gpu_profile import steps_text
from weft.bench.gpu_workloads import WORKLOADS, Words, Workload
from weft.compiler import Compilation
from weft.loading import attention_ways, planner_shape
from weft.options import Options
from weft.passes.tile.attention_parts import Parts
from weft.passes.tile.attention_ways import tuned
from weft.runtime.executable import Executable
from weft.runtime.lists import AttentionLists
from weft.runtime.policy import Policy
from weft.runtime.step import StepInput
from weft.runtime.trace import Trace

PROMPT, STEP, LAUNCH = 24e-6, 7e-3, 4e-3
"""Seconds of a prompt's token, of a step at least, and of the host where nothing is recorded."""
PAGE = 64


class Pace:
    """A draw that is there when its step has had its time."""

    def __init__(self, device: TimedDevice, rows: int) -> None:
        self._end, self._rows, self._device = device.busy_until, rows, device

    def ready(self) -> bool:
        """Whether it is there."""
        return time.perf_counter() >= self._end

    def wait(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sleep until it is there."""
        time.sleep(max(0.0, self._end - time.perf_counter()))
        zeros = torch.zeros(self._rows)
        return self._device.words[: self._rows], zeros, zeros


class TimedDevice:
    """An executor and a sampler that compute nothing: each step takes time, one after another."""

    asynchronous = True
    page_size, page_bytes, num_pages = PAGE, PAGE << 17, 12000

    def __init__(self, vocabulary: int, token: int, batch: int = 256, context: int = 8192) -> None:
        self.vocab_size, self.context_length = vocabulary, context
        self.max_batch, self.max_tokens = batch, 16384
        self.words = torch.full((batch,), token, dtype=torch.int32)
        self.busy_until, self.copies = 0.0, 0
        shape = Parts(32, 8, 128, PAGE)
        usual = planner_shape(tuned(shape, shared=True))
        self._lists = AttentionLists(
            usual, (0,), torch.device("meta"), 16384, ways=[*attention_ways(shape)]
        )
        self._logits = torch.zeros(batch, 1).expand(batch, vocabulary)

    def forward(self, step: StepInput, source: np.ndarray | None = None) -> torch.Tensor:
        """Take the step's time from when the device is free."""
        self._lists.plan(step)
        tokens = len(step.tokens)
        if not step.is_decode:
            time.sleep(LAUNCH)
        seconds = STEP if step.is_decode else max(STEP, PROMPT * tokens)
        self.busy_until = max(self.busy_until, time.perf_counter()) + seconds
        return self._logits[: len(step.logits_rows)]

    def copy_page(self, source: int, target: int) -> None:
        """Count it."""
        self.copies += 1

    def start(self, logits: torch.Tensor, *settings: Any) -> Pace:
        """Return the draw of the step that was launched last."""
        return Pace(self, len(logits))


def run(workload: Workload, check: Callable[[Executable, list[dict[str, Any]]], Any]) -> None:
    """Run a workload cold on a timed device, after a run that warms up Python."""
    options = Options.from_env().changed(prove=False)
    compilation = Compilation(workload.program, "tiny-dense", options=options)
    tokenizer = compilation._need_checkpoint().tokenizer
    words = Words(tokenizer)
    token = tokenizer.encode(words.words[0])[0]
    device = TimedDevice(tokenizer.size, token)
    trace, began, seconds = Trace(kernels=False), 0.0, 0.0
    for seed in range(2):
        trace = Trace(kernels=False)
        executable = Executable(
            compilation.plan, compilation.program_name, device, tokenizer, sample=device,  # type: ignore[arg-type]
            policy=Policy(least_gain=PAGE), trace=trace,
        )  # fmt: skip
        rows = workload.rows(words, seed)
        gc.collect()
        device.copies, began = 0, time.perf_counter()
        if seed:
            check(executable, rows)
        else:
            executable.run_rows(rows)
        seconds = time.perf_counter() - began
    steps = len(trace.steps)
    print(f"{workload.name}: {1e3 * seconds:.1f} ms, {steps} steps, {device.copies} page copies")
    print(steps_text(trace.steps, began))


def main() -> None:
    """Run the workloads that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--host", action="store_true", help="also the host's functions")
    parser.add_argument("--top", type=int, default=30, help="functions that are listed")
    parser.add_argument("--sort", default="tottime", help="how functions are ordered")
    options = parser.parse_args()

    def check(executable: Executable, rows: list[dict[str, Any]]) -> None:
        if not options.host:
            executable.run_rows(rows)
            return
        profile = cProfile.Profile()
        profile.runcall(executable.run_rows, rows)
        pstats.Stats(profile).sort_stats(options.sort).print_stats(options.top)

    for name in options.workloads:
        run(WORKLOADS[name], check)


if __name__ == "__main__":
    main()
