"""A whole model's decode steps over random pages, sparse and dense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from weft.codegen.build_cuda import load_kernels
from weft.compiler.attention import Attention
from weft.ir.model import ModelConfig, Rope
from weft.ir.sparse.calibration import AttentionCalibration, HeadChannels
from weft.ir.sparse.policy import SparsePolicy
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.execution.step import SPARSE, WHOLE, StepInput


def step_seconds(model: str, context: int, batch: int, folder: Path) -> dict[str, Any]:
    """Return the time of a model's decode step, sparse and dense, over pages of random values."""
    from weft.compiler.loading import executor_on
    from weft.frontend.models.presets import preset
    from weft.frontend.models.registry import build_graph
    from weft.options import Options
    from weft.runtime.devices.graphs import CudaGraphs

    tiny = model == "tiny"
    config = TINY if tiny else preset(model)
    config = replace(config, context_length=max(config.context_length, context + 64))
    amounts: dict[str, Any] = {"k": 16, "labels": "i8", "channels": 4, "sinks": 2, "recent": 4}
    policy = SparsePolicy(min_context=0, **(amounts if tiny else {"ratio": 1 / 16, "channels": 32}))
    attention = Attention(policy, in_order(config), always=True, hardware="h200")
    graph, format = build_graph(config), "f32" if tiny else "bf16"
    limits: dict[str, Any] = {"max_tokens": 64, "max_batch": batch}
    regimes = lower_for_gpu(config, graph, weights=format, activations=format, kv=format,
                            attention=attention.passes, **limits)  # fmt: skip
    wanted = merge_kernels(regimes) + gpu_step_kernels(config.vocab_size)
    kernels = load_kernels(wanted, folder, interpreted=tiny)
    options = Options(target="cuda", weights=format, kv_memory=1, **limits)  # type: ignore[arg-type]
    checkpoint: Any = SimpleNamespace(
        config=config, folder=None, name=f"random:{model}", graph=graph
    )
    each = -(-context // 64)
    executor: Any = executor_on(
        checkpoint, regimes, kernels, options, batch * each + 1, "cpu" if tiny else "cuda",
        None if tiny else CudaGraphs(), attention=attention,
    )  # fmt: skip
    for pool in executor._pools:
        for layer in pool:
            layer.normal_()
    times = {}
    for name, kind in (("us", SPARSE), ("dense_us", WHOLE)):
        step = decode_step(context, batch, each, kind)
        for _ in range(3):
            logits = executor.forward(step)
            assert bool(torch.isfinite(logits).all()), "logits are not finite"
        times[name] = None if tiny else 1e6 * executor.time_last()
    return times


TINY = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=96, width=32, layers=2, heads=4, kv_heads=2,
    head_dim=16, ffn=48, context_length=128, windows=(0, 0), rope=Rope(1e4),
)  # fmt: skip


def in_order(config: ModelConfig) -> AttentionCalibration:
    """Return a calibration that leaves channels as they are: for time, any does."""
    ones, zeros = (1.0,) * config.head_dim, (0.0,) * config.head_dim
    head = HeadChannels(tuple(range(config.head_dim)), zeros, ones, ones)
    layers = ((head,) * config.kv_heads,) * config.layers
    return AttentionCalibration(config.heads, config.kv_heads, config.head_dim, layers)


def decode_step(context: int, batch: int, each: int, reads: int) -> StepInput:
    """Return a decode step of sequences of one length, in `each` pages of their own from page 1."""

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    pages = (torch.arange(batch * each, dtype=torch.int32) + 1).view(batch, each)
    slots = pages[:, (context - 1) // 64] * 64 + (context - 1) % 64
    return StepInput(
        ints([1] * batch), ints([context - 1] * batch), slots, ints(range(batch + 1)),
        ints([context] * batch), pages, ints(range(batch)), ints([reads] * batch),
    )  # fmt: skip
