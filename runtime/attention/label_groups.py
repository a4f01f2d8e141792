"""Rows whose labels are scored together: those that share the first pages of their contexts.

Rows of a fork have the same first pages. `passes.tile.selection.shared_labels` reads the labels of
such pages once for a few rows; here these groups are found in the page table. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir.sparse.policy import SHARERS
from .sharing import Node, shared_pages

Array = np.ndarray


@dataclass(frozen=True)
class LabelGroup:
    """A few rows, and how many first pages they share."""

    rows: tuple[int, ...]
    pages: int

    @property
    def saved(self) -> int:
        """Pages whose labels need not be read again."""
        return self.pages * (len(self.rows) - 1)


def label_groups(table: Array, pages: Array) -> list[LabelGroup]:
    """Return groups of rows of a page table [B, MAXP], of which each has `pages` [B] (0: it selects
    nothing)."""
    return [group for node in shared_pages(table, pages) for group in _of(node)]


def _of(node: Node) -> list[LabelGroup]:
    """Return the groups of a node's rows: by what all share, or by what fewer share longer."""
    whole = _cut(node.members, node.last)
    below = [group for child in node.children for group in _of(child)]
    inside = {row for child in node.children for row in child.members}
    apart = below + _cut([row for row in node.members if row not in inside], node.last)
    return max(whole, apart, key=lambda groups: sum(group.saved for group in groups))


def _cut(rows: Sequence[int], pages: int) -> list[LabelGroup]:
    """Return groups of at most as many rows as a program scores for; no row is left alone where
    that can be."""
    count = -(-len(rows) // SHARERS)
    parts = [rows[n * len(rows) // count : (n + 1) * len(rows) // count] for n in range(count)]
    return [LabelGroup(tuple(part), pages) for part in parts if len(part) > 1]


def group_arrays(groups: Sequence[LabelGroup], pages: Array) -> dict[str, Array]:
    """Return what kernels take of groups: the pages by which each row is cut into parts and how
    many of them are scored in a group (`span`, `own` [B]), and `group_pages` [Q], `group_rows`
    [Q * 4] (-1: none)."""
    span, own = pages.copy(), np.zeros_like(pages)
    rows = np.full((len(groups), SHARERS), -1)
    for number, group in enumerate(groups):
        members = list(group.rows)
        span[members], own[members] = pages[members].max(), group.pages
        rows[number, : len(members)] = members
    shared = np.array([group.pages for group in groups], np.int64)
    return {"span": span, "own": own, "group_pages": shared, "group_rows": rows.ravel()}
