"""Expressions of budgets: folded as they are built, and worked out for a row's sizes."""

import itertools

from weft.ir.budget import UNBOUNDED, largest, plus, times, value_of
from weft.passes.program.memory.budgets import shown


def test_expressions_fold_and_evaluate():
    expression = plus(3, times(2, "count x"), largest(4, "bytes y"), 5)
    assert expression == ("+", 8, ("*", 2, "count x"), ("max", 4, "bytes y"))
    assert value_of(expression, {"count x": 3, "bytes y": 10}.__getitem__) == 24
    assert plus(UNBOUNDED, 1) == UNBOUNDED and times(UNBOUNDED, 2) == UNBOUNDED
    assert shown(expression) == "8 + (2 * count(x)) + max(4, bytes(y))"
    assert list(itertools.islice(iter([largest(1, 2)]), 1)) == [2]
