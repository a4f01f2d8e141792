"""The launches around a step, as they are timed: that they draw, and what they are said to move."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from weft.codegen.meaning.reference import run_kernel
from weft.cost_model.hardware_file import load
from weft.ir.constraints.vocabulary_parts import SEARCH_ROUNDS
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.gpu.around_step import GREEDY, SAMPLED, launches_around
from weft.runtime.gpu.greedy_draws import MANY
from weft.tuning.around import around_lines, around_work

VOCAB = 333
CPU = torch.device("cpu")


def interpreted(vocab: int) -> dict[str, Any]:
    """Return the kernels around a step, run by the reference interpreter."""

    def of(kernel: Any) -> Any:
        def launch(*arguments: Any) -> None:
            run_kernel(kernel, *(a.numpy() if isinstance(a, torch.Tensor) else a
                                 for a in arguments))  # fmt: skip

        return SimpleNamespace(launch=launch)

    return {kernel["name"].name: of(kernel) for kernel, _ in gpu_step_kernels(vocab)}


def test_launches_run_and_draw_what_the_oracle_does() -> None:
    found = launches_around(interpreted(VOCAB), VOCAB, 3, CPU)
    for operation in dict.fromkeys(each.operation for each in found):
        launches = [each for each in found if each.operation == operation]
        for each in launches:
            each.run()
        if operation not in (GREEDY, SAMPLED):
            continue
        first, last = launches[0].launch[1], launches[-1].launch[1]
        settings = last[3:8] if operation == SAMPLED else [torch.zeros(3) for _ in range(5)]
        token, logprob, margin = sample_rows(*first[1:3], *settings)
        np.testing.assert_array_equal(last[-3], token)
        np.testing.assert_allclose(last[-2], logprob, atol=1e-4)
        np.testing.assert_allclose(last[-1], margin, atol=1e-5)
    constrain = next(each for each in found if each.operation == "constrain")
    assert bool((constrain.launch[1][-1] == -1).all())  # free text: all words


@pytest.mark.parametrize("rows, greedy", [(3, {"survey_parts", "argmax_join"}),
                                          (MANY - 1, {"survey_parts", "argmax_join"}),
                                          (MANY, {"argmax_masked"})])  # fmt: skip
def test_lines_name_each_kernel_and_how_often_it_runs(rows: int, greedy: set[str]) -> None:
    vocab = 128256
    idle: Any = {kernel["name"].name: SimpleNamespace(launch=lambda *_: None)
                 for kernel, _ in gpu_step_kernels(vocab)}  # fmt: skip
    executor = SimpleNamespace(vocab_size=vocab, device=CPU, seconds=lambda run: 1e-3)
    made: Any = SimpleNamespace(executor=executor, kernels=idle, schedules=gpu_step_kernels(vocab))
    lines = around_lines(made, rows, load("h200").level())
    launches = Counter({(line.operation, line.kernel.removesuffix(f"_{vocab}")): line.launches
                        for line in lines})  # fmt: skip
    sampled = {"survey_parts": 1, "count_round": SEARCH_ROUNDS + 1, "kept_parts": 1,
               "mass_round": SEARCH_ROUNDS + 1, "sample_join": 1}  # fmt: skip
    assert {name: n for (op, name), n in launches.items() if op == SAMPLED} == sampled
    assert {name for op, name in launches if op == GREEDY} == greedy
    for line in lines:
        assert line.measured == pytest.approx(1e-3 / line.launches)
        assert line.schedule.startswith("num_warps") or "chained=True" in line.schedule
        assert 0 < line.roof < line.predicted


def test_what_a_kernel_looks_at_is_what_it_moves() -> None:
    vocab, rows = 128256, 64
    everything = rows * vocab * 4
    for name in ("argmax_masked", "survey_parts", "kept_parts"):
        moved = around_work(f"{name}_{vocab}", rows, vocab).bytes
        assert everything < moved < 1.05 * everything
    part = around_work(f"sample_join_{vocab}", rows, vocab).bytes
    assert everything / 32 < part < 1.2 * everything / 32
    searched = around_work(f"count_round_{vocab}", rows, vocab).bytes * (SEARCH_ROUNDS + 1)
    assert SEARCH_ROUNDS * everything < searched < 1.1 * SEARCH_ROUNDS * everything
