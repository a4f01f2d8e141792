"""Budgets: what a plan says it needs, against every schedule of tiny cases; proofs and faults."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.frontend.checker import check
from weft.frontend.constraints import constraint_of
from weft.frontend.lower import lower
from weft.frontend.parser import parse_text
from weft.ir.budget import UNBOUNDED, Budgets, Limits, Peak, Use, value_of
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.passes.manager import run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.program.memory import budget_check
from weft.passes.program.memory import proof as memory_proof
from weft.passes.program.memory.budgets import stretches
from weft.passes.program.memory.proof import NotProven, prove_memory
from weft.runtime.memory.kv_cache import PagedKV
from weft.runtime.programs.select import Scorer, beginning
from weft.runtime.programs.tasks import Branches


def planned(text, context):
    file = parse_text(text)
    check(file)
    passes = (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)
    module = run_passes(passes, lower(file), context)[0]
    return [op for op in module.operations if op.name == "plan.func"]


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


JUDGE = """
program judge(essay: str, sides: list[str]) -> str:
    user "Essay: {essay}!"
    fork side in sides as reviews:
        user "Judge its {side}."
        assistant gen review(max_tokens=40)
        yield review
    assistant select grade from ["A", "B"]
    return grade
"""


def sizes(**known):
    """Sizes of a row: tokens that it has not counted are bounded by their bytes."""
    return lambda symbol: known.get(
        symbol.replace(" ", "_"), UNBOUNDED if symbol.startswith("tokens ") else 0
    )


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


def test_z3_proves_a_plan_and_names_what_does_not_fit(context, tmp_path):
    (judge,) = planned(JUDGE, context)
    row = sizes(count_sides=2, longest_sides=10, tokens_essay_text=100, bytes_essay=100)
    limits = Limits(4, 500)
    proof = prove_memory([judge], "judge", row, limits, 1000, tmp_path)
    assert proof.by == "z3" and proof.lemmas == 2
    assert proof.fits(proof.most_rows) and not proof.fits(proof.most_rows + 1)
    told = proof.explain(proof.most_rows + 1)
    need = (proof.most_rows + 1) * proof.row_pages
    assert f"{proof.most_rows + 1} rows x fork reviews (2) x a stream of" in told
    assert "tokens (gen review of 40) need" in told
    assert f"need {need} pages, {need - 1000} more than 1000" in told
    assert f"at most {proof.most_rows} rows may be open" in told
    again = prove_memory([judge], "judge", row, limits, 1000, tmp_path)
    assert again.by == "cache" and again.row_pages == proof.row_pages


def test_what_needs_most_is_told_by_its_gens_through_calls_and_loops(context):
    text = """
program inner(x: str) -> str:
    "{x}"
    gen a(max_tokens=30)
    while x != "y" up to 3:
        gen b(max_tokens=50)
        "next"
    gen c(max_tokens=2)
    gen d(max_tokens=40)
    gen e(max_tokens=3)
    gen f(max_tokens=1)
    return f

program outer(x: str) -> str:
    gen first(max_tokens=5)
    fork 3 as found:
        "{x}"
        gen before(max_tokens=2)
        let it = call inner(x)
        yield it
    return first
"""
    programs = planned(text, context)
    row = sizes(bytes_x=6, text_x=6)
    told = prove_memory(programs, "outer", row, Limits(4, 2000), 10).explain(100)
    assert "100 rows x fork found (3) x call inner x a stream of" in told
    named = "(gen a of 30, gen b of 50 each time, gen d of 40, gen e of 3 and 2 more)"
    assert named in told and "before" not in told and "first" not in told


def test_of_two_forks_of_one_name_the_one_that_needs_most_is_told(context):
    text = """
program twice(x: str) -> str:
    "{x}"
    fork 2 as sides:
        "small"
        gen little(max_tokens=2)
        yield little
    fork 3 as sides:
        "large"
        fork 4 as inner:
            "x"
            gen much(max_tokens=100)
            yield much
        yield inner[0]
    return sides[0]
"""
    row = sizes(bytes_x=6, text_x=6)
    told = prove_memory(planned(text, context), "twice", row, Limits(4, 2000), 10).explain(100)
    assert "fork sides (3) x fork inner (4)" in told and "(gen much of 100)" in told


def test_without_z3_a_cached_proof_is_read_and_else_the_message_says_so(
    context, tmp_path, monkeypatch
):
    (judge,) = planned(JUDGE, context)
    row = sizes(count_sides=2)
    prove_memory([judge], "judge", row, Limits(4, 500), 1000, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "z3", None)
    assert prove_memory([judge], "judge", row, Limits(4, 500), 1000, tmp_path).by == "cache"
    other = prove_memory([judge], "judge", row, Limits(4, 500), 999, tmp_path)
    assert other.by == "arithmetic" and "no solver has checked it" in other.explain(1)


@pytest.mark.parametrize("fault", ["round down", "no copied page", "one part forgotten"])
def test_a_planted_fault_in_the_arithmetic_is_refused_by_z3(context, monkeypatch, fault):
    (judge,) = planned(JUDGE, context)
    if fault == "round down":
        monkeypatch.setattr(Limits, "pages", lambda self, tokens: tokens // self.page_size)
    elif fault == "no copied page":
        monkeypatch.setattr(Limits, "branch_pages", lambda self, n: -(-n // self.page_size))
    else:
        module = __import__("weft.ir.budget", fromlist=["most_of"])
        monkeypatch.setattr(module, "most_of", lambda uses, ahead: sum(u.pages for u in uses[1:]))
    row = sizes(count_sides=3, longest_sides=11, tokens_essay_text=101, bytes_essay=101)
    with pytest.raises(NotProven):
        prove_memory([judge], "judge", row, Limits(4, 500), 1000)


CHOSEN = """
program chosen(opts: list[str]) -> str:
    "x"
    gen a(max_tokens=4)
    select s from opts
    fork o in opts as points:
        yield score(o)
    return s
"""


@pytest.mark.parametrize("longest", [1, 7, 60, 499, UNBOUNDED])
def test_options_that_a_row_brings_are_proven_as_they_are_counted(context, longest):
    """Several options counted twice by their number, and no such program was explained."""
    programs, limits = planned(CHOSEN, context), Limits(4, 500)

    def row(symbol):
        return 3 if symbol.startswith("count") else longest

    peak = Budgets(programs, limits).peak("chosen", row)
    proof = prove_memory(programs, "chosen", row, limits, 1 << 20)
    assert proof.by == "z3" and proof.fits(1)
    assert proof.row_pages == peak.pages <= 16 * limits.branch_pages(limits.context)
    assert proof.bounded == (longest < 499)


def test_a_planted_fault_in_what_options_take_is_refused_by_z3(context, monkeypatch):
    programs = planned(CHOSEN, context)
    monkeypatch.setattr(Limits, "branch_pages", lambda self, n: -(-n // self.page_size))
    with pytest.raises(NotProven, match="scored options"):
        prove_memory(programs, "chosen", lambda symbol: 3, Limits(4, 500), 1000)


def test_an_unbounded_width_is_said_not_proven(context):
    text = """
program many(x: str) -> list[str]:
    "{x}"
    gen lines(max_tokens=1000)
    fork line in (lines + lines).splitlines() as found:
        gen word(max_tokens=3)
        yield word
    return found
"""
    proof = prove_memory(
        planned(text, context), "many", lambda symbol: UNBOUNDED, Limits(4, 500), 100
    )
    assert not proof.fits(1) and "not even one row" in proof.explain(1)


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
