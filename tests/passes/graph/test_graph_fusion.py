"""Graph fusions: text in and text out, and the same logits before and after."""

from dataclasses import replace

import pytest
import torch
from weft.codegen.meaning.graph_reference import run_graph
from weft.frontend.models.presets import PRESETS
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.passes.graph.fusion import (
    DropConcatOfSplit,
    FuseAddNorm,
    FuseRopeWrite,
    FuseSiblingMatmuls,
)
from weft.passes.graph.matmul_parts import FuseCombineResidual, FuseMatmulParts
from weft.passes.graph.take_rows import TakeRowsEarly, TakeRowsLate
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import lower_model, merge_kernels
from weft.runtime.execution.weights import RandomTensors, load_weights
from weft.tests.each_time import each_time

COMMON = (FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite())
FUSIONS = {
    "many rows": (*COMMON, FuseAddNorm()),
    "wanted rows": (*COMMON, TakeRowsEarly(), FuseAddNorm()),
    "nearly all rows": (*COMMON, TakeRowsLate(), FuseAddNorm()),
    "few rows": (*COMMON, FuseMatmulParts(), FuseCombineResidual()),
    "one row": (*COMMON, FuseMatmulParts(norms=False), FuseCombineResidual()),
}


def rewritten(body, *passes, facts=frozenset()):
    lines = body.strip().splitlines()
    text = "graph.func name = @step { " + lines[0] + "\n" + "\n".join(lines[1:]) + "\n}"
    context = Context()
    module, _ = run_passes(passes, parse_module(text), context, facts)
    shown = str(module).splitlines()[1:-1]
    return [line.strip() for line in shown], context.remarks


QKV = """|%x: tensor<f32, [T, 8]>, %positions: tensor<i32, [T]>, %slots: tensor<i32, [T]>|
%wq = graph.weight tensors = "q" : tensor<f32, [8, 8]>
%q = graph.matmul %x, %wq : tensor<f32, [T, 8]>
%wk = graph.weight tensors = "k" : tensor<f32, [4, 8]>
%k = graph.matmul %x, %wk : tensor<f32, [T, 4]>
%wv = graph.weight tensors = "v" : tensor<f32, [4, 8]>
%v = graph.matmul %x, %wv : tensor<f32, [T, 4]>
%q_1 = graph.rope %q, %positions, heads = 2, head_dim = 4, rope = {kind = "default"} : tensor<f32, [T, 8]>
%k_1 = graph.rope %k, %positions, heads = 1, head_dim = 4, rope = {kind = "default"} : tensor<f32, [T, 4]>
graph.kv_write %k_1, %v, %slots, layer = 3
graph.return %q_1
"""  # noqa: E501


def test_q_k_v_become_one_matmul():
    lines, _ = rewritten(QKV, FuseSiblingMatmuls())
    assert lines[0] == (
        '%wq_wk_wv = graph.weight tensors = ["q", "k", "v"], rows = [8, 4, 4] '
        ": tensor<f32, [16, 8]>"
    )
    assert lines[1] == "%q_k_v = graph.matmul %x, %wq_wk_wv : tensor<f32, [T, 16]>"
    assert lines[2].startswith("%q, %k, %v = graph.split %q_k_v, sizes = [8, 4, 4]")


def test_rotation_and_write_become_one():
    lines, _ = rewritten(QKV, FuseSiblingMatmuls(), FuseRopeWrite())
    assert lines[2:] == [
        "%q_1 = graph.qkv_rope_write %q_k_v, %positions, %slots, layer = 3, heads = 2, "
        'kv_heads = 1, head_dim = 4, rope = {kind = "default"} : tensor<f32, [T, 8]>',
        "graph.return %q_1",
    ]


def test_gate_and_up_become_one_and_the_concat_goes():
    body = """|%x: tensor<f32, [T, 8]>|
    %wg = graph.weight tensors = "g" : tensor<f32, [6, 8]>
    %g = graph.matmul %x, %wg : tensor<f32, [T, 6]>
    %wu = graph.weight tensors = "u" : tensor<f32, [6, 8]>
    %u = graph.matmul %x, %wu : tensor<f32, [T, 6]>
    %gu = graph.concat %g, %u : tensor<f32, [T, 12]>
    %h = graph.silu_mul %gu : tensor<f32, [T, 6]>
    graph.return %h"""
    lines, _ = rewritten(body, FuseSiblingMatmuls(), DropConcatOfSplit())
    assert lines == [
        '%wg_wu = graph.weight tensors = ["g", "u"] : tensor<f32, [12, 8]>',
        "%g_u = graph.matmul %x, %wg_wu : tensor<f32, [T, 12]>",
        "%h = graph.silu_mul %g_u : tensor<f32, [T, 6]>",
        "graph.return %h",
    ]


def test_a_shared_weight_is_left_and_said():
    body = """|%x: tensor<f32, [T, 8]>|
    %w = graph.weight tensors = "w" : tensor<f32, [8, 8]>
    %a = graph.matmul %x, %w : tensor<f32, [T, 8]>
    %b = graph.matmul %x, %w : tensor<f32, [T, 8]>
    graph.return %a, %b"""
    lines, remarks = rewritten(body, FuseSiblingMatmuls())
    assert len(lines) == 4
    assert remarks[0].message == "2 matmuls of %x: a weight has another use"


def test_sum_and_norm_become_one():
    body = """|%x: tensor<f32, [T, 8]>, %y: tensor<f32, [T, 8]>|
    %s = graph.add %x, %y : tensor<f32, [T, 8]>
    %w = graph.weight tensors = "n" : tensor<f32, [8]>
    %n = graph.rmsnorm %s, %w, eps = 0.5 : tensor<f32, [T, 8]>
    %z = graph.add %s, %n : tensor<f32, [T, 8]>
    graph.return %z"""
    lines, _ = rewritten(body, FuseAddNorm())
    assert lines == [
        '%w = graph.weight tensors = "n" : tensor<f32, [8]>',
        "%s, %n = graph.add_rmsnorm %x, %y, %w, eps = 0.5 : "
        "tensor<f32, [T, 8]>, tensor<f32, [T, 8]>",
        "%z = graph.add %s, %n : tensor<f32, [T, 8]>",
        "graph.return %z",
    ]


def test_matrices_change_format_and_the_rest_does_not():
    body = """|%x: tensor<f32, [T, 8]>|
    %n = graph.weight tensors = "n" : tensor<f32, [8]>
    %w = graph.weight tensors = "w" : tensor<f32, [8, 8]>
    %h = graph.rmsnorm %x, %n, eps = 0.5 : tensor<f32, [T, 8]>
    %a = graph.matmul %h, %w : tensor<f32, [T, 8]>
    graph.return %a"""
    lines, _ = rewritten(body, ChooseWeightFormat("bf16"))
    assert lines[0].endswith("tensor<f32, [8]>") and lines[1].endswith("tensor<bf16, [8, 8]>")


SHAPES = {
    "LlamaForCausalLM": dict(tied=True),
    "Qwen2ForCausalLM": dict(qkv_bias=True),
    "Qwen3ForCausalLM": dict(head_norms=True),
    "MixtralForCausalLM": dict(experts=4, experts_per_token=2),
}


def test_norm_gate_and_residual_go_into_the_matmul():
    body = """|%x: tensor<f32, [T, 8]>|
    %n = graph.weight tensors = "n" : tensor<f32, [8]>
    %h = graph.rmsnorm %x, %n, eps = 0.5 : tensor<f32, [T, 8]>
    %w = graph.weight tensors = "w" : tensor<f32, [12, 8]>
    %b = graph.weight tensors = "b" : tensor<f32, [12]>
    %gu = graph.matmul %h, %w, %b : tensor<f32, [T, 12]>
    %g = graph.silu_mul %gu : tensor<f32, [T, 6]>
    %d = graph.weight tensors = "d" : tensor<f32, [8, 6]>
    %o = graph.matmul %g, %d : tensor<f32, [T, 8]>
    %y = graph.add %x, %o : tensor<f32, [T, 8]>
    graph.return %y"""
    lines, _ = rewritten(body, FuseMatmulParts())
    assert [line for line in lines if "weight" not in line] == [
        '%g = graph.fused_matmul %x, %w, %b, %n, parts = ["bias", "norm"], silu = true, eps = 0.5 '
        ": tensor<f32, [T, 6]>",
        '%y = graph.fused_matmul %g, %d, %x, parts = ["residual"] : tensor<f32, [T, 8]>',
        "graph.return %y",
    ]


@pytest.mark.parametrize("rows", FUSIONS)
@pytest.mark.parametrize("architecture", SHAPES)
def test_logits_stay(architecture, rows):
    config = ModelConfig(architecture, 61, 32, 2, 4, 2, 8, 24, 512, Rope(1e4), windows=(0, 9),
                         **SHAPES[architecture])  # fmt: skip
    before = build_graph(config)
    after, records = run_passes(FUSIONS[rows], before, Context())
    assert "graph.rope" not in {op.name for op in after.walk()}
    tokens = list(range(30))
    logits = [
        run_graph(m, {n: w.dense() for n, w in load_weights(m, RandomTensors()).items()}, tokens)
        for m in (before, after)
    ]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", each_time(sorted(PRESETS), "llama-8b", "qwen3-30b-a3b", "tiny-dense", "tiny-moe")
)
def test_every_shape_lowers_with_kernels_of_distinct_names(name):
    shape = replace(PRESETS[name], layers=2, windows=(0, 0))
    regimes = lower_model(shape, build_graph(shape), max_tokens=64, max_batch=16, weights="bf16")
    kernels = merge_kernels(regimes)
    names = {kernel["name"].name for kernel, _ in kernels}
    assert len(names) == len(kernels)
    for regime in regimes:
        assert parse_module(str(regime.module)) == regime.module
        called = [op for op in regime.function.regions[0].operations if op.name == "graph.call"]
        assert {op["kernel"].name for op in called} <= names


def test_a_decode_step_of_a_dense_layer_is_six_launches():
    shape = PRESETS["tiny-dense"]
    regime = lower_model(shape, build_graph(shape), max_tokens=64, max_batch=16)[0]
    calls = [op for op in regime.function.regions[0].operations if op.name == "graph.call"]
    assert len(calls) == 6 * shape.layers + 3  # and embedding, rows of logits, head


LAST = """|%seen: tensor<f32, [T, 8]>, %x: tensor<f32, [T, 4]>, %rows: tensor<i32, [R]>|
%wo = graph.weight tensors = "o" : tensor<f32, [4, 8]>
%o = graph.matmul %seen, %wo : tensor<f32, [T, 4]>
%y = graph.add %x, %o : tensor<f32, [T, 4]>
%wn = graph.weight tensors = "n" : tensor<f32, [4]>
%n = graph.rmsnorm %y, %wn, eps = 1e-06 : tensor<f32, [T, 4]>
%wg = graph.weight tensors = "g" : tensor<f32, [12, 4]>
%g = graph.matmul %n, %wg : tensor<f32, [T, 12]>
%h = graph.silu_mul %g : tensor<f32, [T, 6]>
%wd = graph.weight tensors = "d" : tensor<f32, [4, 6]>
%d = graph.matmul %h, %wd : tensor<f32, [T, 4]>
%z = graph.add %y, %d : tensor<f32, [T, 4]>
%last = graph.take_rows %z, %rows : tensor<f32, [R, 4]>
graph.return %last
"""


def test_rows_are_taken_before_the_last_products():
    lines, remarks = rewritten(LAST, TakeRowsEarly())
    taken = [line for line in lines if "take_rows" in line]
    assert taken == [
        "%taken = graph.take_rows %seen, %rows : tensor<f32, [R, 8]>",
        "%taken_1 = graph.take_rows %x, %rows : tensor<f32, [R, 4]>",
    ]
    assert "%o = graph.matmul %taken, %wo : tensor<f32, [R, 4]>" in lines
    assert "%z = graph.add %y, %d : tensor<f32, [R, 4]>" in lines
    assert lines[-1] == "graph.return %z" and not any("[T, " in line for line in lines)
    assert [r.message for r in remarks] == ["3 products of the last layer compute wanted rows only"]


NORMED = LAST.replace(
    "graph.return %last",
    """%wl = graph.weight tensors = "l" : tensor<f32, [4]>
%logits = graph.rmsnorm %last, %wl, eps = 1e-05 : tensor<f32, [R, 4]>
graph.return %logits""",
)


def test_rows_are_taken_of_the_last_norm():
    """So that the last sum is the norm's, as within layers."""
    lines, remarks = rewritten(NORMED, TakeRowsLate(), FuseAddNorm())
    assert lines[-3:] == [
        "%z, %normed = graph.add_rmsnorm %y, %d, %wl, eps = 1e-05 "
        ": tensor<f32, [T, 4]>, tensor<f32, [T, 4]>",
        "%logits = graph.take_rows %normed, %rows : tensor<f32, [R, 4]>",
        "graph.return %logits",
    ]
    assert [r.message for r in remarks if r.done] == [
        "the last sum and norm are one launch, of all rows"
    ]


@pytest.mark.parametrize("other", ["%last", "%z"])
def test_rows_that_more_than_the_norm_needs_stay_where_they_are_taken(other):
    used = NORMED.replace("graph.return %logits", f"graph.return %logits, {other}")
    lines, _ = rewritten(used, TakeRowsLate())
    assert lines == [line.strip() for line in used.strip().splitlines()][1:]


def test_rows_that_something_else_needs_are_taken_late():
    used = LAST.replace("graph.return %last", "graph.return %last, %y")
    lines, _ = rewritten(used, TakeRowsEarly())
    assert "%taken = graph.take_rows %y, %rows : tensor<f32, [R, 4]>" in lines
    assert "%o = graph.matmul %seen, %wo : tensor<f32, [T, 4]>" in lines
    alone = LAST.replace("graph.return %last", "graph.return %last, %z")
    same, remarks = rewritten(alone, TakeRowsEarly())
    assert same == [line.strip() for line in alone.strip().splitlines()][1:]
    assert not remarks[0].done
