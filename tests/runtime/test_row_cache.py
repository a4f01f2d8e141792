"""The cache of rows across a link: always what is wanted, never more than its budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.row_cache import CacheTooSmall, RowCache

STEPS = st.lists(
    st.tuples(st.sets(st.integers(0, 30), max_size=8), st.sets(st.integers(0, 30), max_size=3)),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(8, 12))
def test_reads_through_it_are_reads_of_the_host(steps: list, budget: int) -> None:
    """Rows change on the host, and are forgotten; what is read through the cache is up to date."""
    host, cache, rows = np.arange(31), RowCache(budget), np.full(budget, -1)
    for wanted, written in steps:
        host[list(written)] += 100
        cache.forget(np.array(sorted(written), np.int64))
        slots = np.array(sorted(wanted), np.int64)
        found = cache.fetch(slots)
        rows[found.places[found.missing]] = host[slots[found.missing]]
        assert (rows[found.places] == host[slots]).all()
        assert len(set(found.places.tolist())) == len(slots) and len(cache) <= budget


def test_the_longest_unused_goes_and_too_much_is_refused() -> None:
    cache = RowCache(4)
    cache.fetch(np.array([1, 2, 3, 4]))
    cache.fetch(np.array([1, 3]))
    assert cache.fetch(np.array([5, 6])).missing.all()
    assert not cache.fetch(np.array([1, 3, 5, 6])).missing.any()
    with pytest.raises(CacheTooSmall, match="5 rows"):
        cache.fetch(np.arange(5))
