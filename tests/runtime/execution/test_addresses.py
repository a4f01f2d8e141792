"""Launches by addresses are those by tensors: the same kernels with the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from weft.codegen.addresses import values_of
from weft.codegen.triton.launch import Launcher
from weft.compiler.loading import executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.regimes import lower_for_gpu, merge_kernels
from weft.runtime.execution.step import StepInput

CONFIG = ModelConfig(
    vocab_size=96, width=64, layers=2, heads=8, kv_heads=2, head_dim=64, ffn=64,
    context_length=1024, rope=Rope(1e4), windows=(0, 0), architecture="LlamaForCausalLM",
)  # fmt: skip
DRIVER = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 77)


class Kernels:
    """Kernels that note what a device would be told to run; `by_tensors` hides addresses."""

    def __init__(self, names: list[str], by_tensors: bool) -> None:
        self.log: list[tuple[str, tuple[Any, ...]]] = []
        self.tensors = 0
        self.kernels = {name: SimpleNamespace(launch=self._launch(name, by_tensors))
                        for name in names}  # fmt: skip

    def _launch(self, name: str, by_tensors: bool) -> Any:
        def first(*given: Any) -> Any:
            self.tensors += 1
            numbers = [one.data_ptr() if isinstance(one, torch.Tensor) else one for one in given]
            self.log.append((name, tuple(numbers)))
            return SimpleNamespace(
                run=lambda *given: self.log.append((name, given[9:])), function=0, packed_metadata=0
            )

        launch = Launcher(first, lambda *given: (1,), DRIVER)
        return (lambda *given: launch(*given)) if by_tensors else launch


def executor(by_tensors: bool) -> tuple[Any, Kernels]:
    limits: dict[str, Any] = {"max_tokens": 512, "max_batch": 16}
    graph = build_graph(CONFIG)
    regimes = lower_for_gpu(CONFIG, graph, **limits)
    wanted = merge_kernels(regimes) + gpu_step_kernels(CONFIG.vocab_size)
    kernels = Kernels([kernel["name"].name for kernel, _ in wanted], by_tensors)
    graph = ChooseWeightFormat("bf16").run(graph, Context())
    checkpoint: Any = SimpleNamespace(config=CONFIG, folder=None, name="random", graph=graph)
    options = Options(target="cuda", weights="bf16", kv_memory=1, **limits)
    return executor_on(checkpoint, regimes, kernels.kernels, options, 40, "cpu"), kernels


def prompts(copies: bool) -> StepInput:
    """Return a step of two prompts of 100 tokens beside two rows that decode."""
    counts = [1, 1, 100, 100]
    starts = np.cumsum([0, *counts])
    table = np.arange(12, dtype=np.int32).reshape(4, 3)
    tokens = np.arange(starts[-1])
    arrays = (tokens % 96, tokens, tokens, starts, [70, 80, 100, 100], table, starts[1:] - 1)
    step = StepInput(*(torch.tensor(np.array(array, np.int32)) for array in arrays))
    moved = torch.tensor([[1, 2], [700, 701]])
    return replace(step, copies=moved) if copies else step


def relative(device: Any, kernels: Kernels) -> list[Any]:
    """Return the log with a memory's addresses by where they lie in it: two executors differ."""
    recipe = device._recipes[-1][1]
    memory = [device._pools[0], device._pools[1], device._staging.device, recipe._memory.arena]
    memory += recipe._static
    places = sorted(
        (found.data_ptr(), found.nbytes, number)
        for number, found in enumerate(memory)
        if found is not None
    )

    def place(value: int) -> Any:
        held = [(value - at, number) for at, size, number in places if at <= value < at + size]
        return held[0] if held and value > 1 << 20 else value if value < 1 << 20 else "elsewhere"

    return [(name, [place(value) for value in values]) for name, values in kernels.log]


def test_a_step_of_prompts_launches_by_addresses_what_it_launches_by_tensors():
    for copies in (False, True):
        found = []
        for by_tensors in (False, True):
            device, kernels = executor(by_tensors)
            device._prompts.cost = math.inf  # none is recorded
            for _ in range(2):
                kernels.log.clear()
                kernels.tensors = 0
                device.forward(prompts(copies), np.full(202, -1, np.int32))
            assert not kernels.tensors  # each kernel was compiled by the first step
            found.append(relative(device, kernels))
        names = [name for name, _ in found[0]]
        assert found[0] == found[1] and len(names) > 20
        assert ("copy_slots" in names) == copies


def test_kinds_tell_dtypes_alignments_and_ranges_apart():
    x = torch.zeros(64)
    x = x[(-x.data_ptr() % 16) // 4 :]
    values, kinds = values_of((x, x[4:], x[1:], x.int(), 7))
    assert values[:3] == [x.data_ptr(), x.data_ptr() + 16, x.data_ptr() + 4] and values[4] == 7
    assert kinds[0] == (torch.float32, 0) and kinds[4] is None
    assert kinds[1] == kinds[0] and len(set(kinds)) == 4
    values, kinds = values_of((7, 1 << 31, True, None, 1.5))
    assert values == [7, None, None, None, None] and len(set(kinds)) == 5
