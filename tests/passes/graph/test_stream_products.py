"""Products of some rows that kernels of ours stream: the same logits, and regimes for them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.graph_reference import run_graph
from weft.cost_model.binding import decode
from weft.cost_model.scene import Scene
from weft.cost_model.work import work_of
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.ir.printer import print_module, print_operation
from weft.ir.types import tensor
from weft.ir.verifier import verify
from weft.passes.graph.activation_format import ChooseActivationFormat
from weft.passes.graph.fusion import (
    DropConcatOfSplit,
    FuseAddNorm,
    FuseRopeWrite,
    FuseSiblingMatmuls,
)
from weft.passes.graph.pack_weights import PackWeights
from weft.passes.graph.stream_products import StreamProducts
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context, run_passes
from weft.passes.tile.products.skinny_matmul import copy_saves, cuts_of, packed_columns, streamed
from weft.passes.tile.regimes import lower_for_gpu
from weft.runtime.execution.weights import RandomTensors, load_weights, weight_bytes
from weft.runtime.gpu.device_executor import _fitting

SHAPE = ModelConfig(
    "LlamaForCausalLM", 61, 128, 2, 4, 2, 32, 512, 512, Rope(1e4), windows=(0, 9)
)  # fmt: skip
GRAPH = (
    ChooseWeightFormat("bf16"), FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite(),
    FuseAddNorm(), ChooseActivationFormat("bf16"),
)  # fmt: skip
PROCESSORS = 4
"""Of a machine on which products of this small shape are one wave."""


def count(module: Module, name: str) -> int:
    return sum(op.name == name for op in module.walk())


def test_logits_stay() -> None:
    before, _ = run_passes(GRAPH, build_graph(SHAPE), Context())
    context = Context()
    passes = (StreamProducts(partial(cuts_of, processors=PROCESSORS)),)
    after, _ = run_passes(passes, before, context)
    verify(after, ("graph",))
    assert count(after, "graph.cut_matmul") == 3 and count(after, "graph.fused_matmul") == 2
    assert "5 products stream weights" in context.remarks[-1].message
    found = [
        run_graph(
            m, {n: w.dense() for n, w in load_weights(m, RandomTensors()).items()}, [*range(20)]
        )
        for m in (before, after)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_the_rotation_adds_what_is_cut() -> None:
    """Of q, k and v too, whose product nothing else reads."""
    before, _ = run_passes(GRAPH, build_graph(SHAPE), Context())
    width = 256  # of q, k and v
    after, _ = run_passes((StreamProducts(lambda n, k, silu: 2 * (n == width)),), before, Context())
    verify(after, ("graph",))
    cut = [op for op in after.walk() if op.name == "graph.cut_matmul"]
    taken = [op.operands[0] for op in after.walk() if op.name == "graph.qkv_rope_write"]
    assert [op.result for op in cut] == taken and len(cut) == SHAPE.layers
    found = [
        run_graph(
            m, {n: w.dense() for n, w in load_weights(m, RandomTensors()).items()}, [*range(20)]
        )
        for m in (before, after)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    scenes = [[work_of(op, Scene.of(m, decode(8, 64))) for op in m.walk()
               if op.name == "graph.qkv_rope_write"] for m in (before, after)]  # fmt: skip
    for one, two in zip(*scenes, strict=True):
        assert two.flops == one.flops and two.kv_written_bytes == one.kv_written_bytes
        assert two.activation_bytes > one.activation_bytes


def test_an_eight_billion_shape_streams_all_products_of_its_layers() -> None:
    shape = replace(SHAPE, width=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, windows=(0,),
                    layers=1)  # fmt: skip
    limits = {"max_tokens": 512, "max_batch": 200, "processors": 132}
    for regime in lower_for_gpu(shape, build_graph(shape), **limits):
        names = {kernel["name"].name: kernel for kernel, _ in regime.kernels}
        called = [op["of"] for op in regime.module.walk() if op.name == "graph.library"]
        assert len(called) == (1 if regime.rows == 128 else 0 if regime.rows == 1 else 5)  # head
        rotation = [name for name in names if name.startswith("qkv_rope_write")]
        assert len(rotation) == 1
        assert rotation[0].endswith("_parts2") == (regime.rows == 128)
        for rows in (128, 64):
            name = f"skinny_matmul_6144x4096_{rows}x96x64_cut2"
            assert (name in names) == (regime.rows == 128)
            assert name not in names or prove_bounds(names[name]).ok


STREAM = StreamProducts(partial(cuts_of, processors=PROCESSORS))
ONE = 2 * 1024 * 128
"""Bytes of a layer's gate and up."""


@pytest.mark.parametrize(("room", "copies"), [(2 * ONE, 2), (2 * ONE - 1, 1), (0, 0)])
def test_packed_weights_are_copies_that_lie_as_steps_read_them(room: int, copies: int) -> None:
    """Where there is no room for all layers' some are packed, and what is left is said."""
    before, _ = run_passes((*GRAPH, STREAM), build_graph(SHAPE), Context())
    context = Context()
    pack = PackWeights(partial(copy_saves, processors=PROCESSORS), 64, room)
    after, _ = run_passes((pack,), before, context)
    verify(after, ("graph",))
    assert parse_module(print_module(after)) == after
    packed = [op for op in after.walk() if op.attribute("packed") is not None]
    assert [op.result.type for op in packed] == [tensor("bf16", 2, 1024, 64)] * copies
    said = [remark.done for remark in context.remarks]
    assert all("ms" in remark.message for remark in context.remarks)
    assert said == [True] * (copies > 0) + [False] * (copies < 2)
    both = Module((*before.operations, *after.operations))
    assert weight_bytes(both) == weight_bytes(before) + copies * ONE
    weights = load_weights(both, RandomTensors())
    for op in packed:
        usual = weights[op.result.name.removesuffix("_packed")].data
        assert torch.equal(weights[op.result.name].data[1, :, :3], usual[:, 64:67])
    found = [run_graph(m, {n: w.dense() for n, w in weights.items()}, [*range(20)])
             for m in (before, after)]  # fmt: skip
    torch.testing.assert_close(*found, atol=0, rtol=0)


def test_packed_weights_cost_what_usual_ones_do() -> None:
    before, _ = run_passes((*GRAPH, STREAM), build_graph(SHAPE), Context())
    after, _ = run_passes((PackWeights(lambda n, k: 1e-6),), before, Context())
    works = [[work_of(op, Scene.of(m, decode(8, 64))) for op in m.walk()
              if op.name == "graph.fused_matmul"] for m in (before, after)]  # fmt: skip
    assert works[0] == works[1] and len(works[0]) == 2


def test_a_weight_of_several_products_is_not_packed() -> None:
    before, _ = run_passes((*GRAPH, STREAM), build_graph(SHAPE), Context())
    gated = [op for op in before.walk() if op.attribute("silu")]
    first, second = (op.operands[1].name for op in gated)
    shared = parse_module(print_module(before).replace(f"%{second},", f"%{first},"))
    after, _ = run_passes((PackWeights(lambda n, k: 1e-6),), shared, Context())
    assert not [op for op in after.walk() if op.attribute("packed") is not None]


def test_golden_dump(golden: Any) -> None:
    """What streaming, packing and asking make of a layer's products."""
    passes = (*GRAPH, STREAM, PackWeights(partial(copy_saves, processors=PROCESSORS), 64, ONE))
    module, _ = run_passes(passes, build_graph(SHAPE), Context())
    kept = ("graph.weight", "graph.add_rmsnorm", "graph.fused_matmul", "graph.cut_matmul")
    lines = [print_operation(op) for op in module.walk() if op.name in kept]
    golden("graph/streamed_products.txt", "\n".join(lines) + "\n")


def test_packed_weights_that_are_loaded_alone_are_the_same() -> None:
    """Not made of the usual ones, which a step without them has not."""
    before, _ = run_passes((*GRAPH, STREAM), build_graph(SHAPE), Context())
    pack = PackWeights(partial(copy_saves, processors=PROCESSORS), 64)
    after, _ = run_passes((pack,), before, Context())
    alone = load_weights(after, RandomTensors())
    both = load_weights(Module((*before.operations, *after.operations)), RandomTensors())
    assert all(torch.equal(alone[name].data, both[name].data) for name in alone)


def test_what_is_not_measured_stays_the_librarys() -> None:
    before, _ = run_passes(GRAPH, build_graph(SHAPE), Context())
    after, _ = run_passes((StreamProducts(lambda *shape: 0),), before, Context())
    assert after == before


@pytest.mark.parametrize("processors", [0, 132])
def test_elsewhere_there_are_no_more_regimes(processors: int) -> None:
    limits = {"max_tokens": 512, "max_batch": 200, "processors": processors}
    plain = lower_for_gpu(SHAPE, build_graph(SHAPE), **limits)
    assert [(r.rows, r.apart) for r in plain] == [(1, True), (200, True), (0, False)]
    assert not any("skinny" in k["name"].name for r in plain for k, _ in r.kernels)


def test_products_of_one_wave_are_streamed() -> None:
    """Those of the 8 B shape: gate and up, down, the output, q, k and v; not what is larger."""
    assert cuts_of(14336, 4096, True) == 1
    assert cuts_of(4096, 14336, False) == 4 and cuts_of(4096, 4096, False) == 2
    assert streamed(4096, 14336, False, 4, 128).block_n == 128
    assert streamed(4096, 4096, False, 2, 128).block_n == 64
    assert cuts_of(6144, 4096, False) == 2 and cuts_of(28672, 4096, False) == 0
    shape = streamed(6144, 4096, False, 2, 128)
    assert (shape.block_n, shape.own, 6144 // shape.own * shape.cuts) == (128, 96, 128)
    assert cuts_of(65 * 96, 4096, False) == 2  # no multiple of what a program loads, but of its own
    assert cuts_of(14336, 4096, True, 0) == cuts_of(4096, 4096, False, 108) == 0


def test_packed_products_give_most_multiprocessors_a_program() -> None:
    """112 columns of the 8 B shape, so that 128 programs run on 132 multiprocessors."""
    assert packed_columns(14336, 4096) == 112 and packed_columns(512, 128, 4) == 128
    assert copy_saves(14336, 4096) == pytest.approx(5.3e-6, rel=0.05)  # of 66 us
    assert copy_saves(14336, 4096, 0) == 0
    assert packed_columns(14336, 4000) == 0  # K is no multiple of what lies together


def test_regimes_of_some_rows_stream_and_others_do_not() -> None:
    limits = {"max_tokens": 512, "max_batch": 200, "processors": PROCESSORS}
    regimes = lower_for_gpu(SHAPE, build_graph(SHAPE), **limits)
    assert [(r.rows, r.apart) for r in regimes] == [
        (1, True), (128, True), (200, True), (128, False), (0, False),
    ]  # fmt: skip
    for regime in regimes:
        verify(regime.module, ("graph", "tile"))
        assert regime.function.attribute("apart") == (True if regime.apart else None)
        skinny = [k for k, _ in regime.kernels if k["name"].name.startswith("skinny_matmul")]
        assert len(skinny) == (6 if regime.rows == 128 else 0)  # each for few rows and for more
        assert not any("packed" in k["name"].name for k in skinny)
        assert all(prove_bounds(kernel).ok for kernel in skinny)
    body = regimes[1].function.regions[0].operations
    pairs = {(op["kernel"].name, op["few"].name, op["up_to"]) for op in body
             if str(op.attribute("kernel")).count("skinny")}  # fmt: skip
    name = "skinny_matmul_128x512_{}x64x64_cut2"
    assert (name.format(128), name.format(64), 64) in pairs


def test_regimes_with_room_for_copies_take_them() -> None:
    limits = {"max_tokens": 512, "max_batch": 200, "processors": PROCESSORS, "copies": 4 * ONE}
    regimes = lower_for_gpu(SHAPE, build_graph(SHAPE), **limits)
    for regime in regimes:
        packed = [k for k, _ in regime.kernels if k["name"].name.endswith("_packed")]
        assert len(packed) == (2 if regime.rows == 128 else 0)
        assert all(prove_bounds(kernel).ok for kernel in packed)
    every, (usual, *_) = Module(tuple(r.function for r in regimes)), regimes
    assert weight_bytes(every) == weight_bytes(usual.module) + 2 * ONE


def test_a_step_takes_the_first_recipe_that_holds_its_rows_and_lists() -> None:
    class Kind:
        def __init__(self, apart: bool) -> None:
            self.apart = apart

    recipes = [(1, Kind(True)), (128, Kind(True)), (200, Kind(True)), (128, Kind(False)),
               (0, Kind(False))]  # fmt: skip

    def number(rows: int, apart: bool) -> int:
        found = _fitting(recipes, rows, apart)  # type: ignore[arg-type]
        return next(n for n, (_, recipe) in enumerate(recipes) if recipe is found)

    assert [number(rows, True) for rows in (1, 2, 128, 129, 200)] == [0, 1, 1, 2, 2]
    assert [number(rows, False) for rows in (1, 2, 128, 129, 200)] == [3, 3, 3, 4, 4]
