"""Validations of what passes write on operations: no attribute can change or go unseen."""

from collections.abc import Callable

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.text.parser import parse_text
from weft.ir.core import Operation, Symbol, Table, freeze, thaw
from weft.passes.manager import run_passes
from weft.passes.pipeline import PROGRAM_PASSES
from weft.passes.rewrite import rewrite
from weft.passes.validation.registry import CHECKS
from weft.tests.passes.validation.validation_cases import (
    STAGES,
    Fault,
    a_context,
    changed,
    each,
    is_valid,
    once,
    problems,
)

UNREAD = {
    ("fold-constants", "program.constant", "value"),  # of those that unrolled loops have left
    ("lower-to-plan", "plan.tokens", "text"),  # for who reads the plan
    ("lower-to-plan", "plan.select", "tokens gone"),  # a run finds them, too
    ("batching", "plan.fork", "critical"),  # a longer path than there is orders worse, no more
    ("batching", "plan.func", "critical"),
}
"""What a pass may write otherwise: nothing else goes by it."""


def other(value):
    """Return another attribute of the kind; None where there is none."""
    match value:
        case bool() | None | Symbol():
            return None
        case int() | float():
            return value + 9
        case str():
            return value + "x"
        case tuple() if value:
            return value[:-1]
        case Table() if value.items:
            *first, (key, last) = value.items
            changed = other(last)
            return Table((*first, *([(key, changed)] if changed is not None else [])))
    return None


@pytest.mark.parametrize("name", [name for name in STAGES if name in CHECKS])
def test_no_attribute_can_change_or_go_unseen(name):
    """Of the first operation of each name, in what each pass has made."""
    before, after = STAGES[name]
    unseen, first = set(), {operation.name: operation for operation in reversed([*after.walk()])}
    for kind, operation in first.items():
        for key, value in operation.attributes:
            for what, new in ((key, other(value)), (f"{key} gone", None)):
                if new is None and what == key:
                    continue
                fault = once(each(kind, changed(**{key: new})))
                broken = rewrite(after, fault)
                if is_valid(broken) and not problems(name, before, broken):
                    unseen.add((name, kind, what))
    assert unseen <= UNREAD


def prefix(key: str, change: Callable) -> Callable[[Operation], list[Operation]]:
    def changed(operation: Operation) -> list[Operation]:
        table = thaw(operation["prefix"])
        return [operation.with_attributes(prefix=freeze({**table, key: change(table[key])}))]

    return changed


PREFIX_FAULTS: dict[str, Fault] = {
    "a token more above a fork": each("program.fork", prefix("tokens", lambda count: count + 1)),
    "a value left out": each("program.fork", prefix("values", lambda names: names[1:])),
    "a branch more": each("program.fork", prefix("width", lambda width: width + 1)),
    "no prefix": each("program.fork", changed(prefix=None)),
    "rows share a token more": each("program.func", prefix("tokens", lambda count: count + 1)),
}


@pytest.mark.parametrize("fault", PREFIX_FAULTS)
def test_a_wrong_number_of_what_is_shared_is_caught(fault):
    text = """program judge(essay: str) -> str:
    system "You judge."
    user "{essay}"
    fork 2 as reviews:
        user "Again."
        gen review(max_tokens=4)
        yield review
    return reviews[0]
"""
    _, records = run_passes(PROGRAM_PASSES, lower(parse_text(text)), a_context())
    record = next(one for one in records if one.name == "prefix-sharing")
    assert problems("prefix-sharing", record.before, record.after) == []
    broken = rewrite(record.after, once(PREFIX_FAULTS[fault]))
    assert broken != record.after and problems("prefix-sharing", record.before, broken)
