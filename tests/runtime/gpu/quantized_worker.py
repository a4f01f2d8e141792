"""A process that runs fp8 weights through a GPU's executor, its kernels interpreted on the CPU.

Prints one JSON object: for steps that round activations, and for those that widen weights, how far
the logits of a prompt and of a decode step are from the meaning's, as a share of their norm.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from weft.codegen.build_cuda import load_kernels
from weft.codegen.meaning.graph_reference import GraphRun
from weft.compiler.loading import executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.execution.executor import ReferenceExecutor
from weft.runtime.execution.step import StepInput
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.tests.codegen.interpreter_worker import mend_narrow_floats
from weft.tests.quick_interpreter import quicken

quicken()
LIMITS: dict[str, Any] = {"max_batch": 4, "max_tokens": 64}
SHAPE = ModelConfig("LlamaForCausalLM", 96, 32, 2, 4, 2, 16, 48, 128, Rope(1e4), windows=(0, 0))
PAGE = 64


def step(lengths: list[int], new: list[int]) -> StepInput:
    """The last `new` tokens of sequences with a page each."""
    ends = torch.tensor(new).cumsum(0)
    positions = torch.cat([torch.arange(a - b, a) for a, b in zip(lengths, new, strict=True)])
    pages = torch.arange(len(new)).repeat_interleave(torch.tensor(new))
    parts = (torch.arange(int(ends[-1])) * 7 % 96, positions, pages * PAGE + positions,
             torch.cat([torch.zeros(1, dtype=torch.int64), ends]), torch.tensor(lengths),
             torch.arange(len(new))[:, None], ends - 1)  # fmt: skip
    return StepInput(*(part.int() for part in parts))


def logits(executor: Any) -> list[torch.Tensor]:
    """Those of two prompts, and of a token more of each."""
    return [executor.forward(step([20, 30], [20, 30])).clone(),
            executor.forward(step([21, 31], [1, 1])).clone()]  # fmt: skip


def main() -> None:
    mend_narrow_floats()
    graph = build_graph(SHAPE)
    kept = ChooseWeightFormat("f8e4m3").run(graph, Context())
    checkpoint: Any = SimpleNamespace(config=SHAPE, folder=None, name="random", graph=kept)
    options = Options(target="cuda", weights="fp8", kv_memory=1, **LIMITS)
    dense = {n: weight.dense() for n, weight in load_weights(kept, RandomTensors()).items()}
    run = GraphRun(kept, dense, slots=8 * PAGE, page_size=PAGE)
    meant = logits(ReferenceExecutor(SHAPE, run, num_pages=8, **LIMITS))
    errors = []
    for quantize in (True, False):
        regimes = lower_for_gpu(SHAPE, graph, weights="f8e4m3", quantize=quantize, **LIMITS)
        wanted = merge_kernels(regimes) + gpu_step_kernels(SHAPE.vocab_size)
        kernels = load_kernels(wanted, Path(sys.argv[1]), interpreted=True)
        found = logits(executor_on(checkpoint, regimes, kernels, options, 8, "cpu"))
        pairs = zip(found, meant, strict=True)
        errors.append([float((a - b).norm() / b.norm()) for a, b in pairs])
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
