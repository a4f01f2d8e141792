"""Makes a failing case small: statements go, blocks take their statement's place, settings rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from time import monotonic

from weft.tests.fuzz.fuzz_case import ROOMY, Case
from weft.tests.fuzz.random_programs import Node

SIMPLEST = {
    "how": "session", "room": ROOMY, "page_size": 4, "batch": 8, "tokens": 64, "seed": 0,
    "fold_rounds": 16,
}  # fmt: skip


def minimise(case: Case, fails: Callable[[Case], bool], seconds: float) -> Case:
    """Return a smaller case that still fails, the smallest found in the time."""
    end = monotonic() + seconds
    changed = True
    while changed and monotonic() < end:
        changed = False
        for smaller in _smaller(case):
            if monotonic() > end:
                break
            if fails(smaller):
                case, changed = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases with one thing less, large things first."""
    for key, value in SIMPLEST.items():
        if getattr(case, key) != value:
            yield replace(case, **{key: value})
    for at in range(len(case.rows)):
        if len(case.rows) > 1:
            yield replace(case, rows=case.rows[:at] + case.rows[at + 1 :])
    for at in range(len(case.passes)):
        yield replace(case, passes=case.passes[:at] + case.passes[at + 1 :])
    for path in sorted(_paths(case.body), key=len):
        yield from _at(case, path)


Path = tuple[int, ...]
"""Positions from the outermost block inwards: of a statement, then of a block of it (0: its own,
then those that go on), then of a statement there, ..."""


def _paths(body: list[Node], above: Path = ()) -> Iterator[Path]:
    """Yield where statements stand."""
    for position, node in enumerate(body):
        yield (*above, position)
        for number, block in enumerate(_blocks(node)):
            yield from _paths(block, (*above, position, number))


def _blocks(node: Node) -> list[list[Node]]:
    return [inner.body for inner in (node, *node.more) if inner.body is not None]


def _at(case: Case, path: Path) -> Iterator[Case]:
    """Yield cases where the statement at a path is gone, replaced by its block, or simpler."""
    for change in (_delete, _hoist, _drop_more, _shorten):
        body = deepcopy(case.body)
        block = body
        for position, number in zip(path[:-1:2], path[1::2], strict=True):
            block = _blocks(block[position])[number]
        if change(block, path[-1]):
            yield replace(case, body=body)


def _delete(block: list[Node], at: int) -> bool:
    del block[at]
    return True


def _hoist(block: list[Node], at: int) -> bool:
    inner = block[at].body
    if inner is None:
        return False
    block[at : at + 1] = inner
    return True


def _drop_more(block: list[Node], at: int) -> bool:
    had = bool(block[at].more)
    block[at].more = []
    return had


def _shorten(block: list[Node], at: int) -> bool:
    """Replace a text statement's text by a single letter."""
    head = block[at].head
    if not head.startswith('"') or head == '"a"':
        return False
    block[at].head = '"a"'
    return True
