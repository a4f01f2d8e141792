"""The byte model of sparse attention gives the figures worked out by hand for 128 K tokens."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.sparse_bytes import (
    AttentionShape,
    Overheads,
    dense_bytes,
    ideal_speedup,
    model_speedup,
    sparse_bytes,
    speedup,
)
from weft.ir.sparse.policy import SparsePolicy

LLAMA = AttentionShape(32, 8, 128, "bf16")
N = 131072
HALF = Overheads(score=2, score_reads=1, index=8)


@pytest.mark.parametrize(
    "policy, selections, ideal, moved",
    [
        ("k=8192 channels=8 labels=bf16", 1, 10.67, 9.66),
        ("k=8192 channels=32 labels=i4", 1, 10.67, 9.66),
        ("k=8192 channels=32 labels=bf16", 1, 5.33, 5.07),
        ("k=32768 channels=32 labels=bf16", 1, 2.67, 2.56),
        ("k=8192 channels=8 labels=bf16", 4, 3.56, 3.12),
        ("k=8192 channels=8 labels=bf16", 8, 1.88, 1.64),
        ("k=2048 channels=8 labels=bf16", 1, 21.33, 18.1),
    ],
)
def test_the_published_configurations(policy, selections, ideal, moved):
    fields = dict(part.split("=") for part in policy.split())
    given = SparsePolicy(k=int(fields["k"]), channels=int(fields["channels"]),
                         labels=fields["labels"])  # fmt: skip
    none, half = (replace(o, selections=selections) for o in (Overheads.none(), HALF))
    assert speedup(LLAMA, given, N, overheads=none) == pytest.approx(ideal, abs=0.01)
    assert speedup(LLAMA, given, N, overheads=half) == pytest.approx(moved, rel=0.005)
    alpha = given.label_bytes(128) / 256
    assert ideal_speedup(alpha, given.k / N, selections) == pytest.approx(ideal, abs=0.01)


def test_dense_bytes_of_a_layer_of_128_k():
    assert dense_bytes(LLAMA, N) == 536870912


@given(st.integers(30, 100_000), st.integers(20, 5000), st.integers(1, 64))
def test_more_tokens_or_channels_never_read_less(context, k, pairs):
    policy = SparsePolicy(k=k, channels=2 * pairs, min_context=0)
    total = sparse_bytes(LLAMA, policy, context).total
    assert total > 0
    if policy.reads_whole(context):
        assert total == dense_bytes(LLAMA, context)
        return
    assert sparse_bytes(LLAMA, policy, context + 1).total >= total
    assert sparse_bytes(LLAMA, policy, context, read=k + 1).total > total
    if pairs < 64:
        assert sparse_bytes(LLAMA, replace(policy, channels=2 * pairs + 2), context).total > total


def test_dense_layers_count():
    policy = SparsePolicy(ratio=1 / 16, channels=8, labels="bf16")
    all_sparse = model_speedup(LLAMA, policy, 32, [N])
    two_dense = model_speedup(LLAMA, replace(policy, dense=(0, 1)), 32, [N])
    assert all_sparse == pytest.approx(speedup(LLAMA, policy, N))
    assert two_dense == pytest.approx(32 / (2 + 30 / all_sparse))
    assert model_speedup(LLAMA, policy, 32, [100]) == 1.0


def test_a_tail_moves_next_to_nothing():
    """At 16 K less than one percent of the labels' bytes, and the same at every context."""
    policy = SparsePolicy(ratio=1 / 16, channels=32, tail="mean")
    parts = sparse_bytes(LLAMA, policy, 16384)
    assert 0 < parts.tail < 0.01 * parts.labels
    assert parts.tail == sparse_bytes(LLAMA, policy, N).tail
    plain = sparse_bytes(LLAMA, replace(policy, tail="none"), 16384)
    assert parts.total - plain.total == parts.tail


def test_scores_are_read_as_often_as_our_selection_does():
    fixed, adaptive = SparsePolicy(k=4096), SparsePolicy(top_p=0.8)
    assert sparse_bytes(LLAMA, fixed, N).scores == 8 * N * 4 * 5
    assert sparse_bytes(LLAMA, adaptive, N).scores == 8 * N * 4 * 7
    pages = sparse_bytes(LLAMA, replace(fixed, unit="page"), N)
    assert pages.scores == 8 * N / 16 * 4 * 5
