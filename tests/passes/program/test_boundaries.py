"""Ends of tokens behind which a text may share a token with what stands before are named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.compiler import Compilation
from weft.frontend.checkpoints.checkpoint import ZOO
from weft.frontend.checkpoints.tokenizer import load_tokenizer
from weft.ir.parser import parse_module
from weft.passes.manager import Context, run_passes
from weft.passes.program.canonicalize import Canonicalize
from weft.passes.program.plans.boundaries import MOST_TRIED, Boundaries, Side
from weft.passes.program.plans.lower import LowerToPlan
from weft.tests.each_time import examples
from weft.tests.passes.program.budget_cases import planned

TOKENIZER = load_tokenizer(ZOO / "tiny-dense")
BOUNDARIES = Boundaries(TOKENIZER)
WORDS = st.sampled_from(
    ["redu", "x=", "x", " ", "\n", "\n\n", ".", ": ", "Grade", " A", "10", "1", "ing", "é", "日本",
     '", "', '"', "}", "  ", "the", "'s"]
)  # fmt: skip
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map("".join)


@given(TEXTS, TEXTS)
@settings(max_examples=examples(200), deadline=None)
def test_what_the_tokenizer_joins_is_found(before: str, after: str):
    apart = TOKENIZER.encode(before) + TOKENIZER.encode(after)
    joined = TOKENIZER.encode(before + after) != apart
    left, right = Side((before,)), Side((after,))
    assert (BOUNDARIES.joined(left, right) is not None) == joined
    for pair in [(Side(), right), (left, Side()), (Side(), Side())] if joined else []:
        found = BOUNDARIES.joined(*pair)
        assert found is not None
        assert TOKENIZER.encode("".join(found)) != [
            i for part in found for i in TOKENIZER.encode(part)
        ]


@pytest.mark.parametrize("part", ["t", "ing", " the", "e", "\n", ": ", "qqq"])
@pytest.mark.parametrize("ends", [True, False])
def test_the_shortest_words_that_go_on_are_those_of_the_whole_vocabulary(part: str, ends: bool):
    wanted = part.encode()
    every = {TOKENIZER.token_bytes(id) for id in range(TOKENIZER.size)}
    every -= {TOKENIZER.token_bytes(id) for id in (*TOKENIZER.special_ids, *TOKENIZER.end_ids)}
    meets = [w for w in every if (w.endswith if ends else w.startswith)(wanted) and w != wanted]
    found = BOUNDARIES._longer(wanted, ends)
    assert found == sorted(meets, key=lambda word: (len(word), word))[:MOST_TRIED]
    assert found or part not in {"t", "ing", "e"}


def test_a_word_behind_a_space_joins_with_nothing():
    assert BOUNDARIES.joined(Side(), Side((" word",))) is None
    assert BOUNDARIES.joined(Side(("Grade:",)), Side(start=" ")) is None


def said(body: str, context: Context) -> list[str]:
    """Return what is said of the ends of tokens; `ab` is the only token of two bytes."""
    text = "program.func name = @p, parameters = [], returns = str { |%s: stream, %c: bool, "
    module = parse_module(text + "%l: list<int>, %t: list<str>|" + body + "program.return }")
    context.constraint_of = lambda type, records: (
        ("regex", "[0-9]+a?") if type.name == "int" else None
    )
    run_passes((Canonicalize(), LowerToPlan()), module, context)
    return [one.message for one in context.remarks if "begins a token" in one.message]


GEN = '{1} = program.gen {0}, name = "{2}", type = {3}, max_tokens = 4{4} : stream, {3}\n'


def gen(before: str, after: str, type: str = "str", more: str = "") -> str:
    """Return a gen between two streams."""
    name = after.strip("%")
    return GEN.format(before, f"{after}, %v_{name}", name, type, more)


def literal(before: str, after: str, text: str) -> str:
    """Return a literal between two streams."""
    return f'{after} = program.literal {before}, text = "{text}" : stream\n'


CASES = {
    "behind a gen": (gen("%s", "%g") + literal("%g", "%h", "b!") + gen("%h", "%i"), ["gen g"]),
    "not joined": (gen("%s", "%g") + literal("%g", "%h", "!") + gen("%h", "%i"), []),
    "a stop": (
        gen("%s", "%g", more=', stop = "a"') + literal("%g", "%h", "b!") + gen("%h", "%i"), []
    ),
    "a type": (gen("%s", "%g", "int") + literal("%g", "%h", "b!") + gen("%h", "%i"), ["gen g"]),
    "a type that ends otherwise": (
        literal("%s", "%a", "1a") + gen("%a", "%g", "int") + literal("%g", "%h", "ab")
        + gen("%h", "%i"), []
    ),
    "before a gen": (literal("%s", "%a", "!a") + gen("%a", "%g"), ["the text"]),
    "before a gen of digits": (literal("%s", "%a", "!a") + gen("%a", "%g", "int"), []),
    "nothing reads it": (gen("%s", "%g") + literal("%g", "%h", "b"), []),
    "a select": (
        literal("%s", "%a", "!") + '%o = program.constant value = ["xa", "y"] : list<str>\n'
        '%g, %v = program.select %a, %o, name = "g" : stream, selection\n'
        + literal("%g", "%h", "b!") + gen("%h", "%i"), ["select g"],
    ),
    "an option": (
        literal("%s", "%a", "!a") + '%o = program.constant value = ["x", "by"] : list<str>\n'
        '%g, %v = program.select %a, %o, name = "g" : stream, selection\n', ["the text"],
    ),
    "a fork": (
        literal("%s", "%a", "!a") + '%f = program.fork %a, %l, name = "f" { |%u: stream, %e: int|\n'
        + literal("%u", "%w", "b!") + gen("%w", "%g")
        + "program.yield %v_g\n} : list<str>\n", ["fork f"],
    ),
    "a score": (
        literal("%s", "%a", "!a") + '%o = program.constant value = "x" : str\n'
        "%p = program.score %a, %o : float\n" + literal("%a", "%h", "b!") + gen("%h", "%i"),
        ["the text", "a score"],
    ),
    "the round before": (
        literal("%s", "%a", "!") + "%z = program.for %t, %a { |%e: str, %u: stream|\n"
        + literal("%u", "%w", "b!") + gen("%w", "%g") + "program.yield %g\n} : stream\n",
        ["gen g"],
    ),
    "a fork at the head of a loop": (
        literal("%s", "%a", "!") + "%z = program.for %t, %a { |%e: str, %u: stream|\n"
        + '%f = program.fork %u, %l, name = "f" { |%q: stream, %n: int|\n'
        + literal("%q", "%h", "b!") + gen("%h", "%g") + "program.yield %v_g\n} : list<str>\n"
        + literal("%u", "%w", "!a") + "program.yield %w\n} : stream\n", ["fork f"],
    ),
    "a score in a loop in a loop": (
        literal("%s", "%a", "!") + "%z = program.for %t, %a { |%e: str, %u: stream|\n"
        + "%y = program.for %t, %u { |%d: str, %q: stream|\n"
        + '%o = program.constant value = "x" : str\n%p = program.score %q, %o : float\n'
        + literal("%q", "%h", "b!") + gen("%h", "%g") + "program.yield %g\n} : stream\n"
        + literal("%y", "%w", "!a") + "program.yield %w\n} : stream\n",
        ["the text", "gen g", "a score", "gen g"],
    ),
    "a text that goes on": (
        literal("%s", "%a", "!a") + "%z = program.if %c {\n" + literal("%a", "%w", "b!")
        + "program.yield %w\n} {\nprogram.yield %a\n} : stream\n" + gen("%z", "%g"), ["the text"],
    ),
    "a value": (
        gen("%s", "%g") + "%h = program.append %g, %v_g : stream\n" + literal("%h", "%i", "!")
        + gen("%i", "%j"), ["gen g"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_ends_are_named(name: str, context: Context):
    body, expected = CASES[name]
    found = said(body, context)
    assert len(found) == len(expected), found
    assert all(
        f"behind {end}: in one text " in one for one, end in zip(found, expected, strict=True)
    )


def test_the_report_has_the_place():
    text = 'program p() -> str:\n    "Say: "\n    gen a\n    "x="\n    gen b\n    return b\n'
    compilation = Compilation(text, "tiny-dense")
    assert compilation.plan
    told = [one for record in compilation.records for one in record.remarks]
    (remark,) = [one for one in told if one.message.startswith("text begins a token behind gen a")]
    assert remark.span is not None and remark.span.line == 4 and not remark.done


def test_a_space_behind_a_fork_that_nothing_reads_is_no_remark(context: Context):
    text = """
program p() -> list[str]:
    "Say: "
    fork 2 as found:
        gen g(max_tokens=3)
        yield g
    {more}
    return found
"""
    for more, lines in (("let n = 1", []), ('"so"', [3])):
        context.remarks.clear()
        assert planned(text.replace("{more}", more), context)
        told = [one for one in context.remarks if one.message == "tokens that no later call reads"]
        spans = [one.span.line for one in told if one.span is not None]
        assert [line for line in spans if line != 5] == lines, spans


def test_a_space_before_branches_that_are_joined_is_validated(context: Context):
    """The space behind the fork was an appended text that no plan has."""
    text = """
program p() -> str:
    "Say: "
    fork 2 as found:
        gen g(max_tokens=3)
        yield 1
    join best(by=found)
    gen h(max_tokens=3)
    return h
"""
    assert planned(text, context)
    said = [one.message for one in context.remarks if "begins a token behind fork" in one.message]
    assert not said
