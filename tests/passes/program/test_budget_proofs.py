"""Proofs of budgets: what z3 shows, what it refuses, and what is told of what does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from weft.ir.budget import UNBOUNDED, Budgets, Limits
from weft.passes.program.memory.proof import NotProven, prove_memory
from weft.tests.passes.program.budget_cases import JUDGE, planned, sizes


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
    assert f"at most {proof.most_rows} rows are sure to fit" in told
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


def test_a_branch_that_computes_what_is_above_it_says_so(context):
    """A short branch needed hundreds of pages, and nothing told that they were its prompt's."""
    text = """
program deep(x: str) -> str:
    "{x}"
    fork 2 as found:
        gen word(max_tokens=13)
        yield word
    return found[0]
"""
    row = sizes(text_x=400, bytes_x=400, tokens_x_text=400)
    proof = prove_memory(planned(text, context), "deep", row, Limits(4, 2000), 100)
    told = proof.explain(1)
    assert told.startswith("1 row x fork found (2) x a stream of 13 tokens (gen word of 13)")
    assert "after up to 402 tokens above it needs 309 pages, 209 more than 100" in told
    assert replace(proof, most_rows=1).explain(1).startswith("1 row needs at most 309 of 100 KV")


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


def test_tokens_above_a_fork_are_those_before_it(context):
    """What came after the fork, 900 tokens of another gen, counted as above it, too."""
    text = """
program early(x: str) -> str:
    "{x}"
    fork 2 as found:
        gen word(max_tokens=13)
        yield word
    "!"
    gen rest(max_tokens=900)
    return rest
"""
    row = sizes(text_x=400, bytes_x=400, tokens_x_text=400)
    programs = planned(text, context)
    (use,) = Budgets(programs, Limits(4, 4000)).peak("early", row).parts
    assert use.inner is not None and use.inner.above == 402
    told = prove_memory(programs, "early", row, Limits(4, 4000), 600).explain(1)
    assert told.startswith("1 row needs at most 534 of 600 KV")


def test_rounds_of_a_loop_are_above_its_forks(context):
    text = """
program rounds(xs: list[str]) -> int:
    "begin"
    for x in xs:
        gen thought(max_tokens=100)
        if thought == "x":
            fork 2 as found:
                gen word(max_tokens=13)
                yield word
    gen rest(max_tokens=900)
    return 1
"""
    (function,) = planned(text, context)
    peak = Budgets([function], Limits(4, 4000)).peak("rounds", sizes(count_xs=3))
    (use,) = [use for use in peak.parts if use.inner]
    assert 300 + len("begin") <= use.inner.above <= 300 + len("begin") + 2
