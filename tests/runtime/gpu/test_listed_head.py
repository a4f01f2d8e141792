"""Recorded steps of held rows compute logits of listed words: what is launched, for whom, when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from weft.compiler.loading import executor_on
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.passes.tile.gpu_schedules import gpu_step_kernels, head_kernels
from weft.passes.tile.regimes import Regime, lower_for_gpu, merge_kernels
from weft.runtime.execution.step import StepInput
from weft.runtime.gpu import listed_head

V, K = 96, 128
CONFIG = ModelConfig(
    vocab_size=V, width=K, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=64, context_length=256,
    rope=Rope(1e4), windows=(0,), architecture="LlamaForCausalLM",
)  # fmt: skip
LIMITS: dict[str, Any] = {"max_tokens": 256, "max_batch": 160}


class Allows:
    """A constraint of which only the words are asked that some mask allows."""

    def __init__(self, *words: int) -> None:
        bits = np.zeros(V, np.uint8)
        bits[list(words)] = 1
        self.allowed = np.packbits(bits, bitorder="little").view(np.int32)


@pytest.fixture(scope="module")
def lowered() -> list[Regime]:
    return lower_for_gpu(CONFIG, build_graph(CONFIG), **LIMITS)


@pytest.fixture
def device(lowered: list[Regime]) -> Any:
    """A GPU's executor whose kernels only note what they are launched with, in `log`."""
    log: list[tuple[str, tuple[Any, ...]]] = []

    def noted(name: str) -> Any:
        return SimpleNamespace(launch=lambda *given: log.append((name, given)))

    wanted = merge_kernels(lowered) + gpu_step_kernels(V) + head_kernels(V, K)
    kernels = {name: noted(name) for name in (kernel["name"].name for kernel, _ in wanted)}
    graph = ChooseWeightFormat("bf16").run(build_graph(CONFIG), Context())
    checkpoint: Any = SimpleNamespace(config=CONFIG, folder=None, name="random", graph=graph)
    options = Options(target="cuda", weights="bf16", kv_memory=1, **LIMITS)
    found: Any = executor_on(checkpoint, lowered, kernels, options, 640, "cpu")
    found.log, found._recorded.cost, found._head.cost = log, 0.0, 0.0
    return found


def decode(device: Any, rows: int, *constraints: Allows) -> tuple[str, tuple[Any, ...], Any]:
    """Run a decode step whose rows such constraints hold; return its product and its logits."""
    device.held.only = lambda drawn: frozenset(constraints) if drawn == rows else frozenset()
    arrays = ([1] * rows, [9] * rows, np.arange(rows) * 64, range(rows + 1), [10] * rows,
              np.arange(4 * rows).reshape(rows, 4), range(rows))  # fmt: skip
    device.log.clear()
    logits = device.forward(StepInput(*(torch.tensor(np.array(a, np.int32)) for a in arrays)))
    named = [pair for pair in device.log if pair[0].startswith(("head_words", "matvec_96x"))]
    name, given = named[0] if named else ("library", ())
    return name, given, logits


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_step_of_held_rows_multiplies_the_words_of_all_their_constraints(device, rows):
    for words, constraints in (
        ([3, 5, 90], (Allows(5, 90), Allows(3, 5))),
        ([0, 95], (Allows(0, 95),)),
    ):
        name, (count, x, w, listed, found, logits), seen = decode(device, rows, *constraints)
        assert name == f"head_words_{V}x{K}_{64 if rows < 64 else 128}"
        assert count == logits.shape[0] >= rows and x.shape == (count, K)
        assert (logits.data_ptr(), logits.shape[1]) == (seen.data_ptr(), V)
        assert found[: listed.item()].tolist() == words
        assert w is device._recipes[-1][1].head({"R": 1})[1] and w.shape == (V, K)


@pytest.mark.parametrize("constraints", [(), (Allows(*range(49)),), (Allows(*range(40, 89)),)])
def test_all_words_are_computed_for_rows_that_may_draw_many(device, constraints):
    assert decode(device, 1, *constraints)[0] == "matvec_96x128_bf16_f32"
    assert decode(device, 3, *constraints)[0] == "library"
    assert len(device._head) == 0


def test_fewer_words_are_worth_it_for_more_rows(device):
    quarter, half = Allows(*range(24)), Allows(*range(0, 96, 2))
    for rows, some, many in ((1, half, Allows(*range(49))), (100, quarter, half)):
        assert decode(device, rows, some)[0].startswith("head_words")
        assert not decode(device, rows, many)[0].startswith("head_words")


def test_more_rows_than_a_kernel_takes_at_once_have_all_words(device):
    assert decode(device, 128, Allows(1))[0].startswith("head_words")
    assert decode(device, 129, Allows(1))[0] == "library"


def test_a_twin_is_recorded_when_as_much_is_lost_as_that_costs(device):
    lost = (1 - 2 / V) * 2 * V * K / listed_head.RATE
    device._head.cost, recordings = 2.5 * lost, []
    for _ in range(4):
        name, *_ = decode(device, 1, Allows(1, 2))
        recordings.append((name.startswith("head_words"), len(device._head)))
    assert recordings == [(False, 0), (False, 0), (True, 1), (True, 1)]
    assert decode(device, 1)[0].startswith("matvec")  # the usual recording is there as before


def test_the_product_that_is_replaced_is_the_one_that_gives_the_logits(device):
    """Of each form of a step: the same rows, the same weight, and the last launch."""
    for _, recipe in device._recipes:
        names = {place[1] for place in recipe._places.values() if place[0] == "input"}
        inputs = dict.fromkeys(names, torch.zeros(8, dtype=torch.int32))
        for key in recipe._slots.keys:
            if key[0] == "input":
                inputs.setdefault(key[1], torch.zeros(8, dtype=torch.int32))
        extents = {"T": 1, "B": 1, "B1": 2, "R": 1, "MAXP": 4, "N": 640, "M": 1}
        extents |= {key[1]: 1 for key in recipe._slots.keys if key[0] == "extent"}
        launches, logits = recipe.bind(inputs, extents)
        _, given = launches[-1]
        pointers = [one.data_ptr() for one in given if isinstance(one, torch.Tensor)]
        head = recipe.head(extents)
        assert pointers == [head[0].data_ptr(), head[1].data_ptr(), logits.data_ptr()]
