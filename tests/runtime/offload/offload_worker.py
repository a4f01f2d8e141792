"""A process that runs a partitioned model on its GPU lowering, Triton's kernels interpreted.

Prints one JSON object: the tokens of each schedule, and those of the whole model.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

from weft.codegen.build_cuda import load_kernels
from weft.compiler.loading import reference_executor
from weft.compiler.offloading import Offloading
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.options import Options
from weft.passes.tile.sections import lower_sections
from weft.runtime.devices.memory import Memory
from weft.runtime.devices.streams import SimulatedDevice
from weft.tests.quick_interpreter import quicken
from weft.tests.runtime.offload.offload_cases import LIMITS, MIB, greedy, policy

quicken()
PROMPTS = ((17, 5, 99, 1200, 7), (3,), tuple(range(50, 67)))
"""Keys of the last one fill more than a page."""


class Interpreted(Offloading):
    """The stages for a GPU, its kernels interpreted; f32, so that tokens are the whole model's."""

    def _lower(self, module, settings):
        config = self.checkpoint.config
        return lower_sections(module.symbol("step"), config, settings.extents, "cuda", "f32")

    def _device_kernels(self, kernels):
        return load_kernels(self.lowered.kernels["device"], self.options.cache, interpreted=True)


def main() -> None:
    cache, *schedules = sys.argv[1:]
    checkpoint = open_checkpoint("tiny-moe")
    whole = Options(**LIMITS)
    expected = greedy(reference_executor(checkpoint, checkpoint.graph, whole), 3, PROMPTS)
    found = {}
    for schedule in schedules:
        options = Options(target="cuda", cache=Path(cache), **LIMITS).changed(
            weights="f32", gpu_memory=576 * MIB, offload_policy=policy(schedule, micro_batches=2)
        )
        made = Interpreted(checkpoint, options)
        device = SimulatedDevice(Memory("cpu", 64 * MIB), triton=True)
        executor = made.executor(made.kernels([]), device=device)
        found[schedule] = greedy(executor, 3, PROMPTS)
        executor.close()
    print(json.dumps([found, expected]))


if __name__ == "__main__":
    main()
