"""Products of fp8 weights round what they read: the pass, its meaning, the library's routine."""

from __future__ import annotations

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun, quantized
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.passes.graph.activation_format import ChooseActivationFormat
from weft.passes.graph.fusion import FuseAddNorm
from weft.passes.graph.quantize_activations import QuantizeActivations
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import Regime, lower_for_gpu
from weft.runtime.execution.library import scaled_matmul
from weft.runtime.execution.weights import RandomTensors, load_weights


def config(ffn: int = 48, **more: object) -> ModelConfig:
    shape: dict = {"architecture": "LlamaForCausalLM", **more}
    return ModelConfig(vocab_size=96, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=ffn,
                       context_length=128, rope=Rope(1e4), windows=(0, 0), **shape)  # fmt: skip


def graphs(shape: ModelConfig) -> tuple[Module, Module]:
    """The graph with fp8 weights, and that which rounds activations too."""
    before = (ChooseWeightFormat("f8e4m3"), FuseAddNorm(), ChooseActivationFormat("bf16"))
    plain, _ = run_passes(before, build_graph(shape), Context())
    found, _ = run_passes((QuantizeActivations(),), plain, Context(), frozenset({"weight-formats"}))
    return plain, found


def names(module: Module) -> list[str]:
    return [op.name for op in module.symbol("step").regions[0].operations]


def test_products_read_rounded_rows_and_makers_round_their_own():
    _, found = graphs(config())
    verify(found, ("graph",))
    text = print_module(found)
    assert print_module(parse_module(text)) == text
    counts = {name: names(found).count(f"graph.{name}") for name in (
        "scaled_matmul", "matmul", "quantize_rows")}  # fmt: skip
    # of each layer q, k, v, o, gate, up, down; logits are not; attention's output has no maker
    assert counts == {"scaled_matmul": 14, "matmul": 1, "quantize_rows": 2}


def test_what_others_read_too_is_rounded_apart():
    """A router reads the norm that experts read, in full precision."""
    _, found = graphs(config(architecture="MixtralForCausalLM", experts=4, experts_per_token=2))
    body = found.symbol("step").regions[0].operations
    norms = [op for op in body if op.name in {"graph.rmsnorm", "graph.add_rmsnorm"}]
    rounding = [op for op in norms if "f8e4m3" in str(op.results[-2:][0].type)]
    assert 0 < len(rounding) < len(norms)
    assert all("f8e4m3" not in str(op.operands[0].type) for op in body
               if op.name in {"graph.moe_expert", "graph.moe_route"})  # fmt: skip


def test_extents_that_16_does_not_divide_are_left():
    _, found = graphs(config(ffn=40))
    left = [op for op in found.symbol("step").regions[0].operations if op.name == "graph.matmul"]
    assert len(left) == 7  # gate, up and down of two layers, and logits


def inputs(length: int) -> dict[str, torch.Tensor]:
    rows = torch.arange(length)
    return {
        "tokens": (rows * 7) % 96, "positions": rows, "slots": rows,
        "query_starts": torch.tensor([0, length]), "kv_lengths": torch.tensor([length]),
        "page_table": torch.arange(8)[None], "logits_rows": rows,
    }  # fmt: skip


def test_logits_stay_near():
    """3 bits of mantissa: 2.6 % of noise a product, and some 10 % after two layers of random
    weights; a wrong scale, or one left out, is far beyond."""
    plain, found = graphs(config())
    dense = {n: weight.dense() for n, weight in load_weights(plain, RandomTensors()).items()}
    logits = [GraphRun(module, dense).step(inputs(40)) for module in (plain, found)]
    error = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 1e-4 < error < 0.12


@pytest.mark.parametrize("rows", [0, 1, 5, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_the_librarys_routine_is_the_meaning(rows: int, bias: bool):
    torch.manual_seed(rows)
    x, xs = quantized(torch.randn(rows, 64) * 3 + torch.arange(rows)[:, None])
    w, ws = quantized(torch.randn(48, 64))
    added = [torch.randn(48)] if bias else []
    out = torch.full((rows, 48), torch.nan, dtype=torch.bfloat16)
    narrow = [part.to(torch.float8_e4m3fn) for part in (x, w)]
    function, arguments = scaled_matmul([out, narrow[0], xs, narrow[1], ws, *added])
    function(*arguments)
    expected = (x * xs[:, None]) @ (w * ws[:, None]).T + (added[0] if bias else 0)
    torch.testing.assert_close(out.float(), expected, rtol=2**-7, atol=2e-2)


def lowered(quantize: bool) -> list[Regime]:
    return lower_for_gpu(config(), build_graph(config()), max_tokens=512, max_batch=256,
                         weights="f8e4m3", quantize=quantize)  # fmt: skip


def test_products_of_more_rows_have_kernels_where_two_blocks_of_rows_fit_the_machine():
    """This shape's are all that small; those of gate and up of an 8 B shape are not."""
    wide = config(ffn=4096)
    regimes = lower_for_gpu(wide, build_graph(wide), max_tokens=512, max_batch=256,
                            weights="f8e4m3", quantize=True)  # fmt: skip
    assert [regime.rows for regime in regimes] == [1, 64, 256, 0]
    bodies = [regime.function.regions[0].operations for regime in regimes]
    library = [[op for op in body if op.name == "graph.library"] for body in bodies]
    assert [len(calls) for calls in library] == [0, 0, 2, 8]  # gate and up of two layers; all


def test_steps_of_some_rows_have_kernels_and_others_the_library_and_say_that_it_is_lossy():
    one, few, _, many = lowered(True)
    called = [op["kernel"].name for op in few.function.regions[0].operations
              if op.name == "graph.call"]  # fmt: skip
    products = [name for name in called if name.startswith("scaled_matmul")]
    assert len(products) == 9 and sum("f8e4m3_bf16" in name for name in products) == 9
    body = many.function.regions[0].operations
    routines = [op["routine"] for op in body if op.name == "graph.library"]
    assert routines == ["scaled_matmul"] * 8
    for regime in (few, many):
        said = [r.message for record in regime.records for r in record.remarks]
        assert any("lossy" in message and "8 products" in message for message in said)
    assert not any(op.name == "graph.library" for op in one.function.regions[0].operations)
    unrounded = [r.message for regime in lowered(False) for record in regime.records
                 for r in record.remarks]  # fmt: skip
    assert not any("lossy" in message for message in unrounded)
