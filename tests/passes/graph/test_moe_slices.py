"""Experts cut into slices: the same step, whatever the names of its weights, and text of it."""

from dataclasses import replace

import pytest
import torch
from weft.cost_model.placement import Placement
from weft.frontend.models.mixtral import build_mixtral
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.passes.graph.moe_partition import MoePartition, PolicyMismatch
from weft.passes.graph.moe_slices import sliced, slices_of
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import graph_passes
from weft.runtime.execution.weights import RandomTensors, cut_slices, load_weights
from weft.tests.passes.graph.moe_cases import FACTS, MIXED, MIXTRAL, QWEN, logits, shared

FUSED = run_passes(graph_passes(), build_mixtral(MIXTRAL, fused=True), Context())[0]


def cut(module, count):
    return Module(tuple(sliced(function, count) for function in module.operations))


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("module", [shared(MIXTRAL), shared(QWEN), FUSED],
                         ids=["mixtral", "qwen3-moe", "fused"])  # fmt: skip
def test_slices_sum_up_to_their_expert(module, count):
    made = cut(module, count)
    torch.testing.assert_close(logits(made), logits(module), atol=1e-5, rtol=1e-5)
    verify(made, ("graph",))
    assert parse_module(str(made)) == made and slices_of(made.operations[0]) == count
    assert cut(module, 1) == module


def test_a_slice_left_out_changes_the_numbers():
    """The planted fault: the second slice of each expert computes the first one's columns."""
    made = cut(shared(MIXTRAL), 2)
    weights = {n: w.dense() for n, w in load_weights(made, RandomTensors()).items()}
    from weft.codegen.meaning.graph_reference import run_graph

    for op in made.walk():
        if op.attribute("slices") == (1, 2):
            weights[op.result.name][1::2] = weights[op.result.name][0::2]
    wrong = run_graph(made, weights, [1, 5, 77, 90, 33, 2, 5, 5])
    assert not torch.allclose(wrong, logits(shared(MIXTRAL)), atol=1e-3)


def test_slices_of_weights_are_rows_of_gate_and_up_or_columns_of_down():
    gate_up, down = torch.arange(2 * 8 * 3).view(2, 8, 3), torch.arange(2 * 3 * 4).view(2, 3, 4)
    rows = cut_slices(gate_up, 0, 2)
    assert torch.equal(rows[3], torch.cat((gate_up[1, 2:4], gate_up[1, 6:8])))
    assert torch.equal(cut_slices(down, 1, 2)[1], down[0, :, 2:])


@pytest.mark.parametrize("attention", ["cpu", "gpu"])
def test_a_policy_may_divide_an_expert_between_processors(attention):
    layers = tuple(map(Placement, ("rssccsrs", "cccccccc", "rdsrssdc")))
    policy = replace(MIXED, layers=layers, pages_per_expert=2, ring=12, attention=attention,
                     schedule="s4" if attention == "gpu" else "cgo")  # fmt: skip
    assert policy.gpu_fraction(0, 1) == 0.5
    module, _ = run_passes((MoePartition(policy),), shared(MIXTRAL), Context(), FACTS)
    torch.testing.assert_close(logits(module), logits(shared(MIXTRAL)), atol=1e-5, rtol=1e-5)
    verify(module, ("graph",))
    assert parse_module(str(module)) == module


def test_pages_of_four_bits_need_an_even_width():
    policy = replace(MIXED, layers=(Placement("s" * 64),) * 3, pages_per_expert=16, ring=128,
                     page_format="int4")  # fmt: skip
    with pytest.raises(PolicyMismatch, match="slices of 5 columns"):
        run_passes((MoePartition(policy),), shared(MIXTRAL), Context(), FACTS)
