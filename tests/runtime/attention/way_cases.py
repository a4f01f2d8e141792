"""Lists of an engine's ways to read keys, and an executor whose kernels note their launches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from weft.compiler.attention_ways import attention_ways, planner_shape
from weft.compiler.loading import executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import (
    tuned,
)
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.attention.cost import Batch
from weft.runtime.attention.lists import AttentionLists
from weft.runtime.execution.step import StepInput
from weft.runtime.gpu.device_executor import SLOTS
from weft.tests.runtime.attention.list_cases import decode_step


def lists_of(shape: Parts, grouped: bool = False) -> AttentionLists:
    """Return the lists of an engine whose model has these heads."""
    usual = planner_shape(tuned(shape, shared=True))
    cpu = torch.device("cpu")
    return AttentionLists(usual, (0,), cpu, SLOTS, ways=[*attention_ways(shape)],
                          grouped=grouped)  # fmt: skip


def step_of(batch: Batch) -> StepInput:
    return decode_step(batch.lengths.tolist(), batch.table.tolist())


class Seen:
    """Kernels that only note that they were launched."""

    def __init__(self, names: list[str]) -> None:
        self.log: list[str] = []
        self.kernels = {name: SimpleNamespace(launch=self._noting(name)) for name in names}

    def _noting(self, name: str) -> Any:
        return lambda *_: self.log.append(name)


CONFIG = ModelConfig(
    vocab_size=96, width=64, layers=1, heads=8, kv_heads=1, head_dim=64, ffn=64,
    context_length=1 << 17, rope=Rope(1e4), windows=(0,), architecture="LlamaForCausalLM",
)  # fmt: skip


def executor(seen: list[Seen], config: ModelConfig = CONFIG, max_tokens: int = 128) -> Any:
    limits: dict[str, Any] = {"max_tokens": max_tokens, "max_batch": 64}
    graph = build_graph(config)
    regimes = lower_for_gpu(config, graph, **limits)
    wanted = merge_kernels(regimes) + gpu_step_kernels(config.vocab_size)
    seen.append(Seen([kernel["name"].name for kernel, _ in wanted]))
    graph = ChooseWeightFormat("bf16").run(graph, Context())
    checkpoint: Any = SimpleNamespace(config=config, folder=None, name="random", graph=graph)
    options = Options(target="cuda", weights="bf16", kv_memory=1, **limits)
    return executor_on(checkpoint, regimes, seen[0].kernels, options, 1200, "cpu")  # type: ignore[arg-type]
