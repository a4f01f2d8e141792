"""A process that runs steps of one row in each way of attention, by kernels interpreted on the CPU.

Prints one JSON object: by way and keys, how far logits are from those of the first way.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
from weft.codegen.build_cuda import load_kernels
from weft.compiler.loading import executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.attention.cost import Batch, Way
from weft.runtime.attention.plan import WorkList, build, flat
from weft.runtime.execution.step import decode_step
from weft.tests.quick_interpreter import quicken

quicken()
LIMITS: dict[str, Any] = {"max_tokens": 16, "max_batch": 1}
CONFIG = ModelConfig(
    vocab_size=96, width=32, layers=1, heads=4, kv_heads=2, head_dim=16, ffn=48,
    context_length=1024, rope=Rope(1e4), windows=(0,), architecture="LlamaForCausalLM",
)  # fmt: skip


def block_by_block(batch: Batch, ways: Sequence[Way]) -> tuple[Way, WorkList]:
    """Return a plan that cuts a row's keys into blocks: so few heads would not pay for that."""
    shape = ways[0].shape
    return ways[0], build(batch, flat(batch, shape), shape, shape.granule)


def main() -> None:
    graph = build_graph(CONFIG)
    regimes = lower_for_gpu(CONFIG, graph, **LIMITS)
    wanted = merge_kernels(regimes) + gpu_step_kernels(CONFIG.vocab_size)
    kernels = load_kernels(wanted, Path(sys.argv[1]), interpreted=True)
    graph = ChooseWeightFormat("bf16").run(graph, Context())
    checkpoint: Any = SimpleNamespace(config=CONFIG, folder=None, name="random", graph=graph)
    options = Options(target="cuda", weights="bf16", kv_memory=1, **LIMITS)
    device: Any = executor_on(checkpoint, regimes, kernels, options, 16, "cpu")
    device._recorded.cost = 1e-9  # every step's room is recorded
    pick = torch.Generator().manual_seed(1)
    for pool in device._pools:
        pool.copy_(torch.randn(pool.shape, generator=pick))
    device._lists._single.plan = block_by_block
    few = [way for way in device._lists._choice if not way.many]
    assert {way.name for way in few} == {"three", "deep", "crowded", "wide"}
    errors, firsts = {}, []
    for keys in (60, 330, 600):  # one block of keys, six, and more than are joined at a time
        found = {}
        for way in few:
            device._lists._choice, device._lists._last = [way], None
            found[way.name] = device.forward(decode_step(1, keys, device.page_size)).clone()
            assert device._latest.room.way == way.name
        first = found.pop("three")
        firsts.append(first)
        for name, logits in found.items():
            errors[f"{name} {keys}"] = float((logits - first).norm() / first.norm())
    assert not device._lists._arrived.any() and float((firsts[0] - firsts[1]).norm()) > 0.1
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
