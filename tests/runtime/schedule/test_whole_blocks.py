"""Steps of prompts of whole blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.schedule.batch import Chunk
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.schedule.whole_blocks import BLOCK, FEW, LEAST, OVER, packed


def chunk_of(number: int, count: int, rest: int) -> Chunk:
    """A chunk that ends a prompt if there is no rest; every third only fills."""
    sequence: Any = SimpleNamespace(length=10 + count + rest)
    sampling = Sampling(1) if number % 3 < 2 else None
    return Chunk(Request(sequence, str(number), sampling), 10, count)


@given(
    counts=st.lists(st.tuples(st.integers(1, 700), st.integers(0, 1), st.booleans()), max_size=9),
    running=st.integers(0, 300), more=st.booleans(),
)  # fmt: skip
def test_what_is_over_waits_if_more_comes_and_nobody_reads_it(counts, running, more):
    chunks = [chunk_of(number, count, rest) for number, (count, rest, _) in enumerate(counts)]
    read = {str(number) for number, (_, _, is_read) in enumerate(counts) if is_read}
    reads = lambda chunk: chunk.request.name in read  # noqa: E731
    found = packed(list(chunks), running, reads if more else None)
    before = {chunk.request.name: chunk for chunk in chunks}
    order = [(not chunk.joins, chunk.count > 1) for chunk in found]
    assert order == sorted(order)
    assert sorted(before) == sorted(chunk.request.name for chunk in found)
    cut = [c for c in found if c is not before[c.request.name]]
    assert all(c.start == 10 and 0 < c.count < before[c.request.name].count for c in cut)
    assert not any(map(reads, cut)) and not any(c.joins for c in cut) and len(cut) <= FEW
    assert all(c.request.sampling for c in cut)
    tokens, left = (running + sum(c.count for c in some) for some in (chunks, found))
    may_go = sum(c.count - 1 for c in chunks[-FEW:] if c.request.sampling and not reads(c))
    if more and tokens - tokens % BLOCK >= LEAST and 0 < tokens % BLOCK <= min(OVER, may_go):
        assert left == tokens - tokens % BLOCK
    else:
        assert not cut
