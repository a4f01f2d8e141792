"""Tensor parallel: ranks together give the logits of the whole model, each with its part."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun, run_graph
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.passes.graph.few_experts import FuseFewExperts
from weft.passes.graph.fusion import FuseAddNorm
from weft.passes.graph.matmul_parts import FuseCombineResidual, FuseMatmulParts
from weft.passes.graph.tensor_parallel import CannotShard, DoesNotDivide, TensorParallel
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import graph_passes
from weft.runtime.execution.weights import RandomTensors, load_weights, weight_bytes

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM", "tied": True},
    "biases": {"architecture": "LlamaForCausalLM", "qkv_bias": True, "output_bias": True,
               "mlp_bias": True},
    "qwen": {"architecture": "Qwen3ForCausalLM", "head_norms": True, "windows": (0, 9)},
    "mixtral": {"architecture": "MixtralForCausalLM", "experts": 4, "experts_per_token": 2},
    "qwen-moe": {"architecture": "Qwen3MoeForCausalLM", "experts": 6, "experts_per_token": 3,
                 "head_norms": True, "renormalize": False},
    "odd-vocabulary": {"architecture": "LlamaForCausalLM", "vocab_size": 61},
}  # fmt: skip


class Biased(RandomTensors):
    """Random tensors whose biases and norms matter."""

    def read(self, name, shape, shard=None):
        if shard is not None:
            return super().read(name, shape, shard)  # which reads the whole here
        tensor = super().read(name, shape)
        return tensor + torch.linspace(-0.5, 0.5, tensor.numel()) if tensor.dim() == 1 else tensor


def config(name: str) -> ModelConfig:
    shape: dict[str, Any] = dict(
        vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=24,
        context_length=64, rope=Rope(1e4), windows=(0, 0),
    )  # fmt: skip
    return ModelConfig(**(shape | SHAPES[name]))


def ranks(graph, count, *more):
    """The module of each rank."""
    made = []
    for rank in range(count):
        module, _ = run_passes((TensorParallel(rank, count), *more), graph, Context())
        verify(module, ("graph",))
        made.append(module)
    return made


def together(modules, tokens):
    """The logits of every rank, which exchange tensors as they go."""
    barrier, seen = threading.Barrier(len(modules)), [None] * len(modules)

    def run(rank):
        def exchange(tensor):
            seen[rank] = tensor
            barrier.wait()
            found = list(seen)
            barrier.wait()
            return found

        try:
            weights = load_weights(modules[rank], Biased())
            dense = {name: weight.dense() for name, weight in weights.items()}
            step = GraphRun(modules[rank], dense, slots=64, exchange=exchange)
            at = torch.arange(len(tokens))
            return step.step({
                "tokens": torch.tensor(tokens), "positions": at, "slots": at,
                "query_starts": torch.tensor([0, len(tokens)]),
                "kv_lengths": torch.tensor([len(tokens)]),
                "page_table": torch.arange(4)[None], "logits_rows": at,
            })  # fmt: skip
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(modules)) as pool:
        return [future.result() for future in [pool.submit(run, r) for r in range(len(modules))]]


@pytest.mark.parametrize("name", SHAPES)
def test_ranks_give_the_logits_of_the_whole(name):
    graph, tokens = build_graph(config(name)), torch.randint(0, 60, (21,)).tolist()
    dense = {n: w.dense() for n, w in load_weights(graph, Biased()).items()}
    expected = run_graph(graph, dense, tokens)
    one_row = (FuseMatmulParts(norms=False), FuseCombineResidual(), FuseFewExperts(), FuseAddNorm())
    for more in ((), graph_passes(), (*graph_passes(), *one_row)):
        for found in together(ranks(graph, 2, *more), tokens):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_ranks_hold_a_part_of_the_weights_each():
    graph = build_graph(config("mixtral"))
    whole, parts = weight_bytes(graph), [weight_bytes(m) for m in ranks(graph, 2)]
    kept = 4 * 32 * (64 + 5 + 2 * 4)  # the table, norms and routers
    assert parts[0] == parts[1] == (whole - kept) // 2 + kept


def test_the_text_of_a_rank():
    module = ranks(build_graph(config("mixtral")), 2)[1]
    text = str(module)
    assert parse_module(text) == module
    assert "shard = [0, 1, 2]" in text and "shard = [1, 1, 2]" in text
    assert text.count("graph.all_reduce") == 4 and text.count("graph.all_gather") == 1
    assert "local = [2, 4]" in text and "moe_dispatch %route_e, experts = 2" in text
    assert "heads = 2, kv_heads = 1" in text


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("llama", 3, "tp = 3 does not divide the heads of queries, 4"),
        ("llama", 4, "tp = 4 does not divide the heads of keys and values, 2"),
        ("qwen-moe", 4, "heads of keys and values, 2\nhint: this model runs on 1 or 2 ranks"),
    ],
)
def test_ranks_that_do_not_divide_the_heads(name, count, message):
    with pytest.raises(DoesNotDivide) as caught:
        ranks(build_graph(config(name)), count)
    assert message in str(caught.value)


def test_a_column_norm_over_split_columns_is_refused():
    text = str(build_graph(config("llama")))
    planted = text.replace(
        "  %o = graph.matmul %seen,",
        '  %w_planted = graph.weight tensors = "n" : tensor<f32, [32]>\n'
        "  %seen_n = graph.rmsnorm %seen, %w_planted, eps = 1e-06 : tensor<f32, [T, 32]>\n"
        "  %o = graph.matmul %seen_n,", 1,
    )  # fmt: skip
    assert planted != text
    with pytest.raises(CannotShard, match="graph.rmsnorm"):
        ranks(parse_module(planted), 2)
