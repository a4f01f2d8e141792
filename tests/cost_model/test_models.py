"""Prices of the models that weft builds: parameters, FLOPs and bytes of whole steps."""

from dataclasses import replace
from typing import Any

import pytest
from weft.cost_model.binding import Formats, decode, prefill
from weft.cost_model.hardware_file import load
from weft.cost_model.roofline import predict, step
from weft.frontend.models.presets import PRESETS
from weft.frontend.models.registry import build_graph
from weft.passes.graph.few_experts import FuseFewExperts
from weft.passes.graph.tensor_parallel import TensorParallel
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import lower_model

EXPERTS = ("graph.moe_expert", "graph.moe_gated", "graph.moe_mixed")

DENSE = ["tiny-dense", "llama-1b", "qwen3-0.6b"]


def matmul_weights(name: str) -> int:
    """Elements of the matrices that every token multiplies with, counted from the shape."""
    c = PRESETS[name]
    attention = 2 * c.width * c.heads * c.head_dim + 2 * c.width * c.kv_heads * c.head_dim
    return c.layers * (attention + 3 * c.width * c.ffn) + c.vocab_size * c.width


@pytest.mark.parametrize("name", DENSE)
def test_decode_step_by_hand(name: str) -> None:
    c, context, batch = PRESETS[name], 100, 3
    costs = predict(
        build_graph(c), decode(batch, context), load("h200"), formats=Formats("bf16", "bf16")
    )
    dense = [cost.work for cost in costs if cost.operation == "graph.matmul"]
    assert sum(work.flops for work in dense) == 2 * batch * matmul_weights(name)
    assert sum(work.weight_bytes for work in dense) == 2 * matmul_weights(name)
    kv = sum(cost.work.kv_read_bytes for cost in costs)
    assert kv == c.layers * 2 * batch * context * c.kv_heads * c.head_dim * 2


@pytest.mark.parametrize("name", [*DENSE, "tiny-moe", "mixtral-8x7b"])
def test_every_operation_has_a_price(name: str) -> None:
    for binding in (decode(2, 50), prefill(64)):
        cost = step(predict(build_graph(PRESETS[name]), binding, load("h200")))
        assert 0 < cost.seconds.low <= cost.seconds.expected <= cost.seconds.high
        assert all(each.work.bytes > 0 for each in cost.operations)


def test_mixtral_decode_reads_the_active_experts() -> None:
    c = PRESETS["mixtral-8x7b"]
    each = 3 * c.width * c.ffn
    costs = predict(build_graph(c), decode(1, 1), load("h200"), formats=Formats(weight="bf16"))
    experts = [cost.work for cost in costs if cost.operation == "graph.moe_expert"]
    assert sum(work.weight_bytes for work in experts) == pytest.approx(c.layers * 2 * each * 2)
    assert sum(work.flops for work in experts) == c.layers * 2 * 2 * each


@pytest.mark.parametrize("batch, more", [(1, (FuseFewExperts(),)), (1, ()), (16, ())], ids=str)
def test_ranks_read_and_multiply_their_experts_alone(batch: int, more: tuple[Any, ...]) -> None:
    shape = replace(PRESETS["mixtral-8x7b"], layers=1)

    def experts(*passes: Any) -> tuple[float, float]:
        graph, _ = run_passes((*passes, *more), build_graph(shape), Context())
        costs = predict(graph, decode(batch, 1), load("h200"), formats=Formats(weight="bf16"))
        work = [cost.work for cost in costs if cost.operation in EXPERTS]
        assert len(work) == 2
        return sum(each.weight_bytes for each in work), sum(each.flops for each in work)

    whole = experts()
    for rank in range(2):
        assert experts(TensorParallel(rank, 2)) == pytest.approx([part / 2 for part in whole])


def test_llama_8b_decode_on_a_gpu_is_bound_by_its_weights() -> None:
    """15.0 GB of weights in bf16 at 4.24 TB/s: 3.54 ms a step; launches come on top."""
    formats = Formats("bf16", "bf16")
    graph = build_graph(PRESETS["llama-8b"])
    cost = step(predict(graph, decode(1, 16), load("h200"), formats=formats, launch="graph"))
    assert cost.work.weight_bytes == pytest.approx(15.0e9, rel=0.01)
    assert sum(each.memory_s for each in cost.operations) == pytest.approx(3.54e-3, rel=0.01)
    assert cost.bound_share("memory") > 0.85


@pytest.mark.parametrize("name", ["tiny-dense", "qwen3-0.6b", "tiny-moe"])
def test_fusion_never_makes_a_step_dearer(name: str) -> None:
    """What the passes leave before kernels are chosen moves no more bytes, and is no slower."""
    config, binding = PRESETS[name], decode(4, 100)
    plain = step(predict(build_graph(config), binding, load("cpu-generic")))
    for regime in lower_model(config, build_graph(config), max_tokens=64, max_batch=4):
        graph = next(r.before for r in regime.records if r.name == "lower-to-tiles")
        fused = step(predict(graph, binding, load("cpu-generic")))
        assert fused.work.bytes <= plain.work.bytes
        assert fused.seconds.expected < plain.seconds.expected
        assert fused.work.weight_bytes == plain.work.weight_bytes
