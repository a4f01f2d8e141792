"""Budgets: what a plan says it needs, against every schedule of tiny cases."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.frontend.semantics.constraints import constraint_of
from weft.ir.budget import UNBOUNDED, Budgets, Limits, Peak, Use, value_of
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.passes.program.memory import budget_check
from weft.passes.program.memory import proof as memory_proof
from weft.passes.program.memory.parts import stretches
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.programs.select import Scorer, beginning
from weft.runtime.programs.tasks import Branches
from weft.tests.passes.program.budget_cases import JUDGE, planned, sizes


def test_a_constraint_bounds_what_its_value_adds_to_a_prompt(context):
    text = """
record R:
    name: str(max_tokens=4)
    points: int(1..10)

program p() -> str:
    fork 2 as found:
        "x"
        gen r(max_tokens=40): R
        yield r
    "{found}"
    gen s(max_tokens=3)
    return s
"""
    (plan,) = planned(text, replace(context, constraint_of=constraint_of))
    longest = len('{"name": "", "points": 10}') + 12 * 4  # 12 characters, of at most 4 bytes
    tokens = value_of(plan["budget"]["tokens"], {}.__getitem__)
    assert tokens <= 2 * (longest + 4) + 2 + 3 + 8


def most_pages(above, parent, branches, page_size):
    """Return the most pages of a parent and its branches over all orders of their tokens."""

    @functools.cache
    def orders(counts):
        if not any(counts):
            return [()]
        return [
            (number, *rest)
            for number, count in enumerate(counts)
            if count
            for rest in orders((*counts[:number], count - 1, *counts[number + 1 :]))
        ]

    most = 0
    for order in orders((parent, *branches)):
        kv = PagedKV(64, page_size, 64, lambda source, target: None)
        root = kv.create((0,))
        root.append(range(above))
        kv.reserve(root, above)
        root.resident = above
        forks = [kv.fork(root, above, (0, number)) for number in range(len(branches))]
        for number in order:
            sequence = root if number == 0 else forks[number - 1]
            sequence.append([1])
            assert kv.reserve(sequence, sequence.length)
            sequence.resident = sequence.length
            most = max(most, kv.live)
        most = max(most, kv.live)
    return most


def cases():
    for page_size in (1, 2, 3, 4):
        for parent, branches in [(0, (1,)), (2, (1, 2)), (1, (2, 2)), (3, (0, 1)), (1, (1, 1, 1))]:
            yield page_size, parent, branches


@pytest.mark.parametrize(("page_size", "parent", "branches"), list(cases()))
def test_no_order_of_tokens_needs_more_than_the_budget(page_size, parent, branches):
    limits = Limits(page_size, 64)
    for above in range(1, 2 * page_size + 2):
        found = most_pages(above, parent, branches, page_size)
        bound = limits.pages(above + parent) + sum(map(limits.branch_pages, branches))
        assert found <= bound


@pytest.mark.parametrize("page_size", [1, 2, 3, 4])
def test_the_rounding_is_tight_so_one_page_less_is_too_little(page_size):
    limits = Limits(page_size, 64)
    for tokens in (1, 2, page_size, page_size + 1):
        slack = min(
            limits.pages(above) + limits.branch_pages(tokens)
            - most_pages(above, 0, (tokens,), page_size)
            for above in range(1, 2 * page_size + 1)
        )  # fmt: skip
        assert slack == 0


def test_a_budget_follows_the_structure(context):
    (judge,) = planned(JUDGE, context)
    text = str(judge["budget"])
    assert "count sides" in text and "bytes essay" in text
    known = Budgets([judge], Limits(4, 1000))
    pages = {
        count: known.peak(
            "judge", sizes(count_sides=count, longest_sides=5, bytes_essay=50, tokens_essay_text=60)
        ).pages
        for count in range(5)
    }
    each = pages[3] - pages[2]
    fork = next(part for part in judge["budget"]["parts"] if part.get("body"))
    tokens = value_of(fork["body"]["tokens"], sizes(longest_sides=5))
    assert 40 + len("Judge its .") + 5 < tokens < 40 + len("Judge its .") + 20
    limits = Limits(4, 1000)
    assert each == limits.branch_pages(tokens) == (pages[4] - pages[0]) / 4
    # What one branch alone reads, its stream may not hold: it has all of it.
    above = value_of(judge["budget"]["tokens"], sizes(longest_sides=5, tokens_essay_text=60))
    assert each < pages[1] - pages[0]
    assert above > 0


def test_whole_numbers_are_as_long_as_what_they_are_made_of(context):
    """More than the usual digits come with a text, a list or a float; a sum has one more."""
    text = """
program p(t: str, many: list[int], f: float) -> int:
    let k = int(t)
    "{k}|{k + 1}|{max(many)}|{sum(many)}|{many[0]}|{int(f)}|{len(t)}"
    gen x(max_tokens=1)
    return k
"""
    (function,) = planned(text, context)
    digits = value_of(function["budget"]["tokens"], lambda symbol: 100)
    shown = [k := 10**99, k + 1, 10**99, 10**101, 10**99, int(1.7e308), 100]
    assert digits >= len("|".join(map(str, shown)))


def test_parts_side_by_side_add_up_and_one_after_another_do_not(context):
    text = """
program one(x: str) -> str:
    "{x}"
    gen word(max_tokens=30)
    return word

program two(x: str) -> str:
    let a = call one(x)
    let b = call one(x)
    let c = call one(x)
    user "{a}{b}{c}"
    gen last(max_tokens=5)
    return last
"""
    programs = planned(text, context)

    def pages(ahead):
        peak = Budgets(programs, Limits(4, 80, ahead)).peak("two", sizes(bytes_x=6))
        return peak.pages - peak.own

    assert [pages(ahead) for ahead in (1, 2, 3, UNBOUNDED)] == [
        pages(1) * count for count in (1, 2, 3, 3)
    ]


def forked_by_the_scorer(options):
    """Return the lengths of the stretches that scoring the options really computes."""
    found = []

    class Tokens:
        def __init__(self):
            self.length = 5

        def append(self, ids):
            self.length += len(ids)
            found.append(len(ids))

    def ask(sequence, what):
        yield what

    def drive(coroutine):
        wish = None
        while True:
            try:
                wish = coroutine.send(wish)
            except StopIteration:
                return
            if isinstance(wish, Branches):
                for inner in wish.coroutines:
                    drive(inner)
            else:
                wish.scores = [torch.zeros(99)] * 99

    scorer = Scorer(options, lambda parent: Tokens(), lambda tokens: None, ask, "x", 0)
    drive(scorer.run(Tokens(), beginning(options)))
    return sorted(found)


NESTED = """
program nested(x: str) -> int:
    "{x} and more"
    gen a(max_tokens=9)
    fork 3 as views:
        gen b(max_tokens=40)
        if len(b) > 3:
            gen c(max_tokens=30)
        yield b
    let n = 0
    while n < 3 up to 5:
        "again "
        gen d(max_tokens=6)
        n += 1
    return n
"""


def test_a_budget_passes_its_checker_and_one_without_a_gen_does_not(context):
    (function,) = planned(NESTED, context)
    module = Module((function,))
    assert budget_check.validate(module, module, context) == []
    text = str(module)
    assert "limit = 5" in text

    def told(old, new):
        wrong = parse_module(text.replace(old, new))
        return budget_check.validate(wrong, wrong, context)

    assert "fork views: a stream of" in told("max_tokens = 30", "max_tokens = 90")[0]
    assert "@nested: a stream of" in told("max_tokens = 6", "max_tokens = 90")[0]
    assert told("fork views", "fork others") == ["@nested: no part for fork views"]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)
)  # fmt: skip
def test_stretches_are_the_sequences_that_scoring_forks(options):
    assert sorted(stretches(options)) == forked_by_the_scorer(options)
    peak = Peak(3, 1, (Use("select", 1, 1, 2, False, None, (2,)),), 3)
    assert memory_proof._prove(peak, Limits(4, 10), "x") == ("z3", 1)


CALLED = """
tool find(x: str) -> str

program one(x: str, sure: bool) -> str:
    "{x}"
    gen word(max_tokens=30)
    if sure:
        return word
    return x + "!"

program many(xs: list[str]) -> list[str]:
    "many"
    fork x in xs as found:
        gen word(max_tokens=3)
        yield word
    return found

program two(x: str, n: int) -> str:
    let a = call one(x, true)
    let all = call many([x, x, a])
    {more}
    "{a}{all[0]}"
    gen last(max_tokens=5)
    return last
"""


def test_what_a_call_returns_is_bounded_by_what_its_program_returns(context):
    """It had no bound, and so neither had the stream that it stands in."""
    programs = planned(CALLED.replace("{more}", "let b = 1"), context)
    (two,) = [op for op in programs if op["name"].name == "two"]
    tokens = two["budget"]["tokens"]
    found = [value_of(tokens, sizes(bytes_x=count)) for count in (0, 10, 1000)]
    word = 30 * 2  # the longest token of `context` has two bytes
    assert found[0] == found[1] < found[2] < 1100
    assert word + 3 * 2 + 5 <= found[0] <= word + 3 * 2 + 5 + 8
    assert not [one for one in context.remarks if "nothing but the model's context" in one.message]


def test_a_value_that_nothing_bounds_is_named_with_its_place(context):
    text = CALLED.replace("{more}", 'let hit = find(x)\n    "{hit}"')
    programs = planned(text, context)
    (two,) = [op for op in programs if op["name"].name == "two"]
    assert value_of(two["budget"]["tokens"], sizes(bytes_x=10)) >= UNBOUNDED
    (remark,) = [one for one in context.remarks if "nothing but the model's context" in one.message]
    assert "nothing says how long {hit} gets" in remark.message
    assert remark.span is not None and "{hit}" in text.splitlines()[remark.span.line - 1]


def test_a_call_of_a_row_s_number_of_branches_is_not_bounded(context):
    text = """
program many(n: int) -> list[str]:
    "many"
    fork n as found:
        gen word(max_tokens=3)
        yield word
    return found

program two(n: int) -> str:
    let all = call many(n)
    "{all}"
    gen last(max_tokens=5)
    return last
"""
    two = planned(text, context)[-1]
    assert value_of(two["budget"]["tokens"], sizes()) >= UNBOUNDED


def test_what_is_inlined_returns_what_its_ways_leave(context):
    text = """
program one(x: str) -> str:
    "a"
    gen word(max_tokens=30)
    if word == "b":
        return word
    return "so it is, and no other way"

program two(x: str) -> str:
    let a = inline one(x)
    "{a}"
    gen last(max_tokens=5)
    return last
"""
    tokens = value_of(planned(text, context)[-1]["budget"]["tokens"], sizes())
    assert 30 + 60 + 5 <= tokens < 30 + 60 + 5 + 8
