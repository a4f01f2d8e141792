"""Small mixture-of-experts models, a policy, and what their step gives, for tests of partition."""

from __future__ import annotations

from dataclasses import replace

from weft.codegen.meaning.graph_reference import run_graph
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.passes.graph.moe_partition import MoePartition
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import graph_passes
from weft.runtime.execution.weights import RandomTensors, load_weights

MIXTRAL = ModelConfig(
    "MixtralForCausalLM", 96, 64, 3, 4, 2, 32, 80, 256, Rope(1e4), windows=(0, 0, 0), experts=4,
    experts_per_token=2,
)  # fmt: skip
QWEN = replace(MIXTRAL, architecture="Qwen3MoeForCausalLM", head_norms=True)
MIXED = Policy(
    6, 3, "cpu", tuple(map(Placement, ("rssc", "cccc", "rdsr"))), 4, 1, 6, schedule="cgo"
)
FACTS = frozenset({"fused-rope-write"})


def shared(config):
    return run_passes(graph_passes(), build_graph(config), Context())[0]


def partitioned(config, policy, context=None):
    return run_passes((MoePartition(policy),), shared(config), context or Context(), FACTS)[0]


def logits(module):
    weights = {n: w.dense() for n, w in load_weights(module, RandomTensors()).items()}
    return run_graph(module, weights, [1, 5, 77, 90, 33, 2, 5, 5])
