"""Pages copied together hold what pages copied one after another do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.gpu.page_copies import BLOCK, PageCopies

PAGES = 6


def launch(copies, layers, pages, blocks, source, target, pool):
    assert pool.shape == (layers, pages, blocks, BLOCK) and len(source) == copies
    pool[:, target.long()] = pool[:, source.long()]  # reads all before it writes


def pools(width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    numbers = torch.arange(2 * PAGES * 2 * 64 * width) % 251
    return [(numbers + add).to(dtype).view(2, PAGES, 2, 64, width) for add in (0, 3)]


pairs = st.tuples(st.integers(0, PAGES - 1), st.integers(0, PAGES - 1)).filter(
    lambda pair: pair[0] != pair[1]
)


@pytest.mark.parametrize("width", [8, 3])  # a page of 3 * 32 numbers is no multiple of the block
@given(steps=st.lists(st.lists(pairs, max_size=8), max_size=4))
def test_together_equals_one_by_one(steps, width):
    found, expected = pools(width, torch.bfloat16), pools(width, torch.bfloat16)
    copies = PageCopies(found, launch)
    for step in steps:
        for source, target in step:
            copies.add(source, target)
            for pool in expected:
                pool[:, target] = pool[:, source]
        copies.flush()
        assert all(map(torch.equal, found, expected))


def test_a_chain_of_copies_takes_one_launch_and_a_source_that_is_overwritten_another():
    launched = []
    copies = PageCopies(pools(8, torch.float32), lambda count, *rest: launched.append(count))
    for source, target in ((0, 1), (0, 2), (5, 3)):
        copies.add(source, target)
    copies.flush()
    copies.flush()
    assert launched == [3, 3]  # keys, and values
    copies.add(0, 1)
    copies.add(1, 2)  # what the first writes: page 0 again
    assert launched == [3, 3]
    copies.add(3, 0)
    assert launched == [3, 3, 2, 2]
