"""Keys and values across a link, simulated: the tokens of sparse decode, whatever is predicted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_sparse_decode import PROGRAM, generate, prompts
from weft.codegen.sparse_offload_reference import OffloadedAttention
from weft.compiler import Compilation
from weft.options import Options
from weft.runtime.row_cache import CacheTooSmall, RowCache

pytestmark = pytest.mark.usefixtures("one_thread")
POLICY = "sparse(k=20, sinks=2, recent=6, min_context=0, labels=i4)"


def executors(budget: int, **changes: Any) -> tuple[Any, Any, OffloadedAttention]:
    """Return executors of the graph's meaning: with all keys at hand, and with a cache of them."""
    options = Options.from_env().changed(attention=POLICY, executor="reference")
    plain, offloaded = (Compilation(PROGRAM, "tiny-dense", options=options) for _ in "ab")
    attention = offloaded.attention
    assert attention is not None
    model: Any = offloaded.executor
    attend = OffloadedAttention(attention.policy, attention.calibration, make_rows=RowCache,
                                budget=budget, **changes)  # fmt: skip
    model._interpreter.attend = attend
    model._before = lambda step: None
    return plain.executor, model, attend


@pytest.mark.parametrize("prefetch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tokens_are_those_of_sparse_decode(prefetch: bool) -> None:
    """The cache's rows start as NaN: whatever was not copied would show."""
    plain, model, attend = executors(48, prefetch=prefetch)
    asked = prompts()[:2]
    assert generate(model, asked, 4) == generate(plain, asked, 4)
    traffic = attend.traffic
    assert traffic.ratio > 4 and traffic.read < traffic.streamed
    assert (traffic.prefetched > 0) == prefetch
    assert traffic.late > 0  # predictions miss, and nothing changes


@pytest.mark.slow
def test_a_wrong_prediction_changes_nothing() -> None:
    """Predicted queries are replaced by noise: more rows come late, tokens stay."""
    plain, model, attend = executors(48)

    class Noise(dict):
        def __setitem__(self, key: Any, q: torch.Tensor) -> None:
            super().__setitem__(key, torch.randn_like(q))

    attend._queries = Noise()
    assert generate(model, prompts()[:1], 8) == generate(plain, prompts()[:1], 8)


def test_a_cache_smaller_than_a_selection_is_refused() -> None:
    _, model, _ = executors(8)
    with pytest.raises(CacheTooSmall, match="19 rows"):
        generate(model, prompts()[:1], 2)
