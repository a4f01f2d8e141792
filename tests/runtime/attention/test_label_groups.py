"""Groups of rows that share labels: each row in one at most, its pages the group's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from weft.ir.sparse.policy import SHARERS
from weft.runtime.attention.label_groups import LabelGroup, group_arrays, label_groups

ROWS = st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=1, max_size=12)


def table_of(paths: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the page table of rows that go down a tree: a page is the way to it."""
    known: dict[tuple[int, ...], int] = {}
    table = np.full((len(paths), 6), -1)
    for row, path in enumerate(paths):
        for depth in range(len(path)):
            table[row, depth] = known.setdefault(tuple(path[: depth + 1]), len(known))
    return table, np.array([len(path) for path in paths])


@given(ROWS)
def test_rows_of_a_group_have_its_pages(paths: list[list[int]]) -> None:
    table, pages = table_of(paths)
    groups = label_groups(table, pages)
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows))
    for group in groups:
        assert 2 <= len(group.rows) <= SHARERS and 0 < group.pages <= pages[list(group.rows)].min()
        assert len({tuple(table[row, : group.pages]) for row in group.rows}) == 1
    arrays = group_arrays(groups, pages)
    assert (arrays["span"] >= pages).all() and (arrays["own"] <= pages).all()
    assert len(arrays["group_rows"]) == SHARERS * len(groups) <= SHARERS * max(len(paths) // 2, 0)


def test_what_saves_more_is_taken() -> None:
    longer = table_of([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1], [0]])
    assert label_groups(*longer) == [LabelGroup((0, 1), 4), LabelGroup((2, 3), 1)]
    alike = table_of([[0, 0]] * 5)
    assert label_groups(*alike) == [LabelGroup((0, 1), 2), LabelGroup((2, 3, 4), 2)]
