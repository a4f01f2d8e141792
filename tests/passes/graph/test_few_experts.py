"""A layer of experts joined for a single row: the same logits, and what is left as it is."""

from __future__ import annotations

import torch
from weft.codegen.meaning.graph_reference import GraphRun
from weft.cost_model.binding import decode
from weft.cost_model.scene import Scene
from weft.cost_model.work import total, work_of
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.passes.graph.few_experts import FuseExpertSilu, FuseFewExperts
from weft.passes.graph.matmul_parts import FuseCombineResidual
from weft.passes.graph.tensor_parallel import TensorParallel
from weft.passes.manager import Context, PassRecord, run_passes
from weft.runtime.execution.weights import RandomTensors, load_weights

SHAPE = ModelConfig("MixtralForCausalLM", 96, 32, 2, 4, 2, 16, 48, 128, Rope(1e4), windows=(0, 0),
                    experts=6, experts_per_token=2)  # fmt: skip


def fused(graph: Module) -> tuple[Module, list[PassRecord]]:
    return run_passes((FuseCombineResidual(), FuseFewExperts()), graph, Context())


def names(module: Module) -> list[str]:
    return [op.name for op in module.symbol("step").regions[0].operations]


def test_logits_are_the_same() -> None:
    graph = build_graph(SHAPE)
    joined, _ = fused(graph)
    assert names(joined).count("graph.moe_gated") == names(joined).count("graph.moe_mixed") == 2
    gone = {"graph.moe_dispatch", "graph.moe_expert", "graph.moe_combine", "graph.silu_mul"}
    assert not gone & set(names(joined))
    check(graph, joined)


def test_silu_belongs_to_the_product_of_many_rows() -> None:
    graph = build_graph(SHAPE)
    joined, _ = run_passes((FuseExpertSilu(),), graph, Context())
    assert "graph.silu_mul" not in names(joined)
    assert names(joined).count("graph.moe_expert") == 4
    check(graph, joined)


def check(graph: Module, joined: Module) -> None:
    verify(joined, ("graph",))
    dense = {n: weight.dense() for n, weight in load_weights(graph, RandomTensors()).items()}
    rows = torch.arange(5)
    inputs = {"tokens": rows * 7, "positions": rows, "slots": rows,
              "query_starts": torch.tensor([0, 5]), "kv_lengths": torch.tensor([5]),
              "page_table": torch.arange(4)[None], "logits_rows": rows}  # fmt: skip
    expected, found = (GraphRun(module, dense).step(inputs) for module in (graph, joined))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_rank_joins_its_experts_and_leaves_out_the_others() -> None:
    part, _ = run_passes((TensorParallel(0, 2),), build_graph(SHAPE), Context())
    joined, _ = fused(part)
    verify(joined, ("graph",))
    found = [op for op in joined.walk() if op.name in ("graph.moe_gated", "graph.moe_mixed")]
    assert len(found) == 4 and all(op["partial"] for op in found)
    assert "graph.moe_dispatch" not in names(joined)


def test_products_of_some_experts_are_left_and_it_says_so() -> None:
    text = str(build_graph(SHAPE)).replace("per_row = 2 :", "per_row = 2, experts = [0, 1] :", 1)
    left, records = fused(parse_module(text))
    assert names(left).count("graph.moe_expert") == 2 and names(left).count("graph.moe_gated") == 1
    assert any("elsewhere" in remark.message for record in records for remark in record.remarks)


def test_the_price_is_that_of_the_same_weights() -> None:
    """Both read the gate, up and down rows of the chosen experts; M is bound without a dispatch."""
    graph = build_graph(SHAPE)
    joined, _ = fused(graph)
    works = []
    for module in (graph, joined):
        scene = Scene.of(module, decode(1, 32))
        works.append(total([work_of(op, scene) for op in module.walk()]))
    assert works[1].weight_bytes == works[0].weight_bytes
    assert works[1].activation_bytes < works[0].activation_bytes
