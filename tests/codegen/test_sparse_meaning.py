"""The rewritten graph means what sparse decode of the graph before means: the passes' oracle."""

from typing import Any

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun
from weft.codegen.meaning.sparse_decode_reference import DecodeAttention
from weft.codegen.meaning.sparse_meaning import SparseMeaning
from weft.codegen.measure.observe_attention import AttentionObserver
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module
from weft.ir.model import ModelConfig, Rope
from weft.ir.sparse.calibration import Provenance
from weft.ir.sparse.policy import parse_policy
from weft.passes.graph.sparse_attention import OrderChannels, SparseAttention
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import graph_passes
from weft.runtime.execution.weights import RandomTensors, load_weights

CONFIG = ModelConfig("LlamaForCausalLM", 64, 32, 2, 4, 2, 16, 48, 512, Rope(), windows=(0, 0))
TOKENS = torch.randint(0, 64, (2, 90), generator=torch.Generator().manual_seed(3))
FORCED = "sinks=2, recent=5, min_context=0"


def run_of(module: Module, **changes: Any) -> GraphRun:
    weights = {n: w.dense() for n, w in load_weights(module, RandomTensors()).items()}
    return GraphRun(module, weights, slots=192, dtype=torch.float64, **changes)


def steps(run: GraphRun) -> torch.Tensor:
    """A prompt of 70, then steps of one token of it and a second prompt, then both decode."""
    table = torch.arange(12).reshape(2, 6)
    found = []
    for parts in ([(0, 0, 70)], [(0, 70, 71), (1, 0, 40)], *([(0, n + 71, n + 72),
                  (1, n + 40, n + 41)] for n in range(12))):  # fmt: skip
        ids = torch.cat([TOKENS[row, low:high] for row, low, high in parts])
        at = torch.cat([torch.arange(low, high) for _, low, high in parts])
        slots = torch.cat([table[row, :1] * 16 + torch.arange(low, high)
                           for row, low, high in parts])  # fmt: skip
        counts = torch.tensor([high - low for _, low, high in parts])
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        found.append(run.step({
            "tokens": ids, "positions": at, "slots": slots, "query_starts": starts,
            "kv_lengths": torch.tensor([high for _, _, high in parts]),
            "page_table": table[: len(parts)], "logits_rows": starts[1:] - 1,
        }))  # fmt: skip
    return torch.cat(found)


@pytest.mark.parametrize(
    "text",
    [
        f"sparse(k=20, {FORCED}, tail=mean)",
        f"sparse(top_p=0.6, {FORCED}, labels=i8)",
        f"sparse(k=40, unit=page, {FORCED}, labels=bf16, tail=mean, dense=[1])",
    ],
)
def test_the_algebra_means_sparse_decode(text: str) -> None:
    graph, observer = build_graph(CONFIG), AttentionObserver()
    steps(run_of(graph, attend=observer))
    calibration, policy = observer.chosen(Provenance()), parse_policy(text)
    assert policy is not None
    passes = (*graph_passes(), OrderChannels(text), SparseAttention(text, always=True))
    module, _ = run_passes(passes, graph, Context())
    found = steps(run_of(module, meanings=SparseMeaning(calibration).meanings))
    wanted = steps(run_of(graph, attend=DecodeAttention(policy, calibration)))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    assert (wanted - steps(run_of(graph))).abs().max() > 1e-3
