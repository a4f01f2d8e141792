"""A model lowered for a GPU: bf16 activations and KV, every kernel emitted as Triton."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.triton.emit import emit
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module, Term
from weft.ir.model import ModelConfig, Rope
from weft.ir.types import dtype_of
from weft.ir.verifier import verify
from weft.passes.graph.activation_format import ChooseActivationFormat
from weft.passes.graph.fusion import (
    DropConcatOfSplit,
    FuseAddNorm,
    FuseRopeWrite,
    FuseSiblingMatmuls,
)
from weft.passes.graph.matmul_parts import FuseCombineResidual
from weft.passes.graph.memory_planning import PlanMemory
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context, run_passes
from weft.passes.tile.attention.ways import CROWD, JOINED, WAVES
from weft.passes.tile.gpu_schedules import gpu_schedule
from weft.passes.tile.lowering.lower import LowerToTiles
from weft.passes.tile.regimes import lower_for_gpu
from weft.tests.each_time import each_time

PASSES = (
    ChooseWeightFormat("bf16"), FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite(),
    FuseAddNorm(), FuseCombineResidual(), ChooseActivationFormat("bf16"),
    LowerToTiles(0, 512, 16, "bf16", "cuda"),
    PlanMemory((("T", 64), ("R", 8), ("B", 8), ("M", 128))),
)  # fmt: skip
ARCHITECTURES = ("LlamaForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM")


def config(architecture: str) -> ModelConfig:
    experts = {"experts": 4, "experts_per_token": 2} if architecture == "MixtralForCausalLM" else {}
    return ModelConfig(
        architecture, 61, 64, 2, 4, 2, 16, 48, 512, Rope(1e4), windows=(0, 9),
        head_norms=architecture == "Qwen3ForCausalLM", **experts,
    )  # fmt: skip


def lowered(architecture: str) -> Module:
    shape = config(architecture)
    module, _ = run_passes(PASSES, build_graph(shape), Context(model_name="test"))
    return module


@pytest.mark.parametrize(
    ("architecture", "weights"), [("LlamaForCausalLM", "i8"), ("MixtralForCausalLM", "f8e4m3")]
)
def test_weights_of_eight_bits_are_read_by_our_kernels_in_short_steps(
    architecture: str, weights: str
) -> None:
    shape = config(architecture)
    limits = {"max_tokens": 64, "max_batch": 8}
    regimes = lower_for_gpu(shape, build_graph(shape), **limits, weights=weights, kv="f8e4m3")
    for regime in regimes:
        verify(regime.module, ("graph", "tile"))
        for kernel, schedule in regime.kernels:
            ast.parse(emit(kernel, schedule).text)
        body = regime.function.regions[0].operations
        library = [op for op in body if op.name == "graph.library"]
        narrow = [op for op in library if weights in str(op.operands[1].type)]
        assert bool(narrow) == (regime.rows == 0)


@pytest.mark.parametrize("architecture", each_time(ARCHITECTURES, *ARCHITECTURES[1:]))
def test_every_kernel_has_a_triton_form_and_is_proven(architecture: str) -> None:
    module = lowered(architecture)
    verify(module, ("graph", "tile"))
    kernels = [op for op in module.operations if op.name == "tile.kernel"]
    assert len(kernels) >= 6
    for kernel in kernels:
        ast.parse(emit(kernel).text)
        assert prove_bounds(kernel).ok


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_are_bf16_and_logits_f32(architecture: str) -> None:
    module = lowered(architecture)
    body = module.symbol("step").regions[0].operations
    made = [v for op in body if op.name != "graph.weight" for v in op.results]
    kept = {v.name for v in made if dtype_of(v.type) == "f32"}
    assert "logits" in kept and all(not name.startswith(("x", "q", "seen")) for name in kept)
    assert any(dtype_of(v.type) == "bf16" for v in made)
    assert not any(op.name.endswith(("matmul", "partial", "finalize")) for op in body)


def test_experts_have_large_blocks_in_steps_of_many_rows() -> None:
    shape = replace(config("MixtralForCausalLM"), width=1024, ffn=384)
    limits = {"max_tokens": 64, "max_batch": 8}
    _, few, many = lower_for_gpu(shape, build_graph(shape), **limits)
    found = [[(kernel["name"].name, list(kernel["grid"]), schedule.num_warps, schedule.registers)
              for kernel, schedule in regime.kernels if kernel["of"] == "graph.moe_expert"]
             for regime in (few, many)]  # fmt: skip
    assert [kernel[1] for kernel in found[0]] == [["4", "12"], ["4", "16"]]
    assert found[1] == [
        ("moe_expert_bf16_384x1024_2_silu_bf16_128x128", ["4", "3", "4"], 8, 0),
        ("moe_expert_bf16_1024x384_1_bf16_128x128", ["4", "8", "4"], 8, 128),
    ]
    for kernel, _ in many.kernels:
        assert prove_bounds(kernel).ok


def test_gated_experts_in_f32_have_as_many_stages_as_fit() -> None:
    """A stage of x, gate and up in large blocks of f32 is 128 KB of a program's 227."""
    shape = replace(config("MixtralForCausalLM"), width=1024, ffn=384)
    limits = {"max_tokens": 64, "max_batch": 8, "weights": "f32", "activations": "f32"}
    *_, many = lower_for_gpu(shape, build_graph(shape), **limits)
    experts = [kernel for kernel in many.kernels if kernel[0]["of"] == "graph.moe_expert"]
    assert [schedule.num_stages for _, schedule in experts] == [2, 3]


def test_a_single_rows_experts_are_streams_of_their_weights() -> None:
    """Two launches a layer for five, and no library's: the router's product is ours as well."""
    shape = config("MixtralForCausalLM")
    one, *_ = lower_for_gpu(shape, build_graph(shape), max_tokens=64, max_batch=8)
    body = one.function.regions[0].operations
    names = [op["kernel"].name.split("_")[:2] for op in body if op.name == "graph.call"]
    layer = [["rmsnorm", "64"], ["matvec", "128x64"], ["qkv", "rope"], ["attention", "parts"],
             ["attention", "join"], ["matvec", "64x64"], ["rmsnorm", "64"], ["matvec", "4x64"],
             ["moe", "route"], ["moe", "gated"], ["moe", "mixed"]]  # fmt: skip
    without_window = [*layer[:4], layer[3], *layer[4:]]  # one of its ways joins by itself
    assert names[1:-3] == [*without_window, *layer]
    assert not any(op.name == "graph.library" for op in body)
    for kernel, schedule in one.kernels:
        ast.parse(emit(kernel, schedule).text)
        assert prove_bounds(kernel).ok


def test_what_the_library_computes_is_said_with_the_reason() -> None:
    shape = config("LlamaForCausalLM")
    limits = {"max_tokens": 64, "max_batch": 8}
    one, _, many = lower_for_gpu(shape, build_graph(shape), **limits)
    said = [[r.message for r in regime.records[-2].remarks if "library" in r.message
             or "attention" in r.message] for regime in (one, many)]  # fmt: skip
    assert said[0] == []  # a single row's products are ours
    assert said[1][0] == ("steps of many rows: 9 matmul call the library: dense products are the "
                          "vendor library's on a GPU")  # fmt: skip
    assert "attention over many rows is our kernel's: it reads pages where they are" in said[1][1]


def test_attention_is_a_work_list_and_its_join_one_list_a_window() -> None:
    module = lowered("LlamaForCausalLM")
    body = module.symbol("step").regions[0].operations
    calls = [op for op in body if op.attribute("of") == "graph.finalize"]
    names = [call["kernel"].name for call in calls]
    list_of = ["parts", "parts", "join"]
    assert [name.split("_")[1] for name in names] == ["prompts", *list_of, *list_of]
    kinds = [module.symbol(name).attribute("items") for name in names]
    assert kinds == ["prompt", "many", "few", None, "many", "few", None]
    tiles, names = calls.pop(0), names[1:]  # a window has none: its prompts are items as well
    assert calls[0].operands == (*tiles.operands, *tiles.results) and not calls[0].results
    for place in (0, 1):
        items = [next(t for t in c["arguments"] if t.name == "plan_item_row")
                 for c in calls[place::3]]  # fmt: skip
        assert [item.parameters for item in items] == [(), (9,)]
    many, few, join = calls[3:]
    assert few.operands == (*many.operands, *many.results) and not few.results
    assert join.operands == many.results and not join.results
    results = []
    for call, name in zip((tiles, *calls), (tiles["kernel"].name, *names), strict=True):
        taken = [value.name for value in module.symbol(name).regions[0].arguments]
        results.append(call["arguments"][taken.index("out")])
    first, second, joined = Term("out", (0,)), Term("in", (1,)), Term("in", (0,))
    assert results == [first, second, second, joined, first, second, joined]


def test_attention_of_steps_of_many_rows_has_kernels_of_its_own() -> None:
    passes = (*PASSES[:-2], LowerToTiles(0, 512, 64, "bf16", "cuda"))
    module, _ = run_passes(passes, build_graph(config("LlamaForCausalLM")), Context("test"))
    body = module.symbol("step").regions[0].operations
    calls = [op for op in body if op.attribute("of") == "graph.finalize"][1:4]
    many, few, join = calls
    heads = config("LlamaForCausalLM").heads
    assert (many["up_to"], join["up_to"]) == (WAVES, JOINED // heads)
    names = many["few"].name, many["kernel"].name
    assert [module.symbol(name).attribute("way") for name in names] == [None, "crowded"]
    assert [gpu_schedule(module.symbol(name)).num_stages for name in names] == [4, 3]
    assert module.symbol(few["kernel"].name)["way"] == "crowded" and few.attribute("up_to") is None
    one = LowerToTiles(64, 512, 64, "bf16", "cuda", apart=True)
    module, _ = run_passes((*PASSES[:-2], one), build_graph(config("LlamaForCausalLM")),
                           Context("test"))  # fmt: skip
    calls = [op for op in module.symbol("step").regions[0].operations
             if op.attribute("of") == "graph.finalize"]  # fmt: skip
    assert calls[0]["up_to"] == CROWD
    assert module.symbol(calls[0]["kernel"].name)["way"] == "crowded"


def test_kernels_compile_for_hopper() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    for kernel in lowered("MixtralForCausalLM").operations:
        if kernel.name == "tile.kernel":
            assert len(compile_offline(kernel)["cubin"]) > 1000
