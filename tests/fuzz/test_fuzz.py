"""A short slice of the fuzzer, and that it finds faults, makes them small and replays them."""

from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import pytest
from weft.ir.core import Module
from weft.passes.manager import ProgramPass
from weft.passes.rewrite import rewrite
from weft.tests.each_time import each_time
from weft.tests.fuzz.fuzz_case import Case, Problem, check_case, random_case, steps_of
from weft.tests.fuzz.random_programs import Node
from weft.tests.fuzz.run_fuzz import fuzz, kind_of

CASES = 8
PATIENCE = 500
"""Seconds after which a slice is cut short: a few on an idle machine are enough."""


def test_a_slice(tmp_path):
    ended, found = fuzz(PATIENCE, first_seed=10_000, folder=tmp_path, cases=CASES)
    assert not found and ended["fine"] == CASES


def test_cases_are_of_many_kinds():
    heads = " ".join(random_case(Random(seed)).text for seed in range(60))
    words = ["fork 2", " in [", "join best", "while", "match", "case error", "inline", "call "]
    words += ["list[Pair]", "é", "with adapter", "else:", 'by="unconditional"', "stop=regex"]
    assert [word for word in words if word not in heads] == []
    hows = {random_case(Random(seed)).how for seed in range(60)}
    assert hows == {"session", "rows", "threads", "stream"}


def test_a_case_comes_back_from_its_file(tmp_path):
    for seed in range(20):
        case = random_case(Random(seed))
        case.write(tmp_path / "case.json", "nothing")
        assert Case.read(tmp_path / "case.json") == case


@dataclass(frozen=True)
class Faulty(ProgramPass):
    """A pass that spoils operations of one name."""

    spoiled: str
    change: object

    name: ClassVar[str] = "faulty"
    reads: ClassVar[tuple[str, ...]] = ("program", "plan")
    writes: ClassVar[tuple[str, ...]] = ("program", "plan")

    def run(self, module: Module, context) -> Module:
        return rewrite(module, lambda op: self.change(op) if op.name == self.spoiled else None)


def longer(literal):
    return [literal.with_attributes(text=literal["text"] + "!")]


def shorter(gen):
    return [gen.with_attributes(max_tokens=max(1, gen["max_tokens"] - 1))]


def reversed_ids(tokens):
    return [replace(tokens.with_attributes(ids=tokens["ids"][::-1]))]


FAULTS = {
    "a longer text": Faulty("program.literal", longer),
    "a smaller budget": Faulty("program.gen", shorter),
    "tokens in another order": Faulty("plan.tokens", reversed_ids),
}


@pytest.mark.parametrize("name", each_time(FAULTS.keys(), "a smaller budget"))
def test_a_planted_fault_is_found_and_made_small(name, tmp_path, capsys):
    faulty = FAULTS[name]

    def run(case):
        steps = steps_of(case.passes, case.fold_rounds)
        at = len(steps) if faulty.spoiled.startswith("plan") else 0
        check_case(case, (*steps[:at], faulty, *steps[at:]))

    _, (path,) = fuzz(PATIENCE, first_seed=0, run=run, folder=tmp_path, patience=PATIENCE)
    small = Case.read(path)
    assert len(small.body) <= 5 and len(small.rows) == 1
    assert kind_of(small, run) is not None and kind_of(small) is None
    assert "--replay" in capsys.readouterr().out


def test_what_the_checks_compare():
    case = Case([Node('"a"'), Node("gen g(max_tokens=2)"), Node('return ["{g}"]')],
                rows=[{"arg": "x", "items": []}], passes=["canonicalize"])  # fmt: skip
    check_case(case)
    with pytest.raises(Problem, match="text form"):
        check_case(case, (Faulty("program.literal", unprintable), *steps_of(case.passes)))


def unprintable(literal):
    return [literal.with_attributes(note=float("nan"))]


FOUND = {
    "a branch that lost is freed while its score is computed": [
        Node("gen a(max_tokens=6)"), Node("gen b(max_tokens=2, temperature=0.7)"),
        Node("fork 3 as f:", [Node('let v = score("a")')], "yield len(b)"),
        Node("join best(by=f)"), Node('return ["{a}", "{b}"]'),
    ],
    "a loop that returns": [
        Node('while arg in ["a", "hello"] or true up to 1:',
             [Node("gen g(max_tokens=3)"), Node('return ["é "]')]),
        Node('return ["{arg}"]'),
    ],
    "a fork that needs an inlined one inside its branches": [
        Node("let w = inline deep(arg)"),
        Node('fork x in ["a", "b"] as l:', [Node("gen t(max_tokens=24): Pair")], "yield w + x"),
        Node('return ["{l}"]'),
    ],
}  # fmt: skip
"""Programs that the fuzzer has found faults with."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_right(name):
    check_case(Case(FOUND[name], rows=[{"arg": "hello", "items": ["a"]}], passes=["canonicalize"]))
