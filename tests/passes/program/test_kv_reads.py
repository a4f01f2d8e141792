"""KV lifetimes are what a walk over a plan's paths shows; each number that is wrong is caught."""

from __future__ import annotations

from functools import cache

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module, freeze, thaw
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.rewrite import rewrite
from weft.passes.validation.kv_reads import lifetimes_hold
from weft.runtime.simulator import ToyChat, ToyTokenizer

ROUNDS = """
program p(n: int) -> str:
    "Begin."
    for i in range(n):
        "Round {i}:"
        gen said(max_tokens=2)
        "."
    return "done"
"""
EVERYTHING = """
program ask(question: str) -> str:
    "{question}"
    gen first(max_tokens=2)
    if first == "a":
        return first
    gen second(max_tokens=2)
    return second

program p(n: int) -> str:
    "Begin."
    let answer = inline ask("well")
    let rounds = 0
    while rounds < n up to 4:
        rounds += 1
        fork 2 as points:
            gen point(max_tokens=2)
            let chance = score("yes")
            yield chance
        join best(by=points)
        if answer == "b":
            "again"
            gen answer(max_tokens=2)
    select end from ["x", "y"]
    return end
"""
LEAVES = """
program ask(questions: list[str]) -> str:
    for question in questions:
        "{question}"
        gen first(max_tokens=2)
        if first == "a":
            return first
    while true up to 3:
        gen second(max_tokens=2)
        return second
    return "none"

program p(n: int) -> str:
    let answer = inline ask(["x", "y"])
    if n == 1:
        gen last(max_tokens=2)
        return last
    gen other(max_tokens=2)
    return other
"""


@cache
def plan(text: str) -> Module:
    file = parse_text(text)
    check(file)
    context = Context(tokenizer=ToyTokenizer(()), chat=ToyChat(), constraint_of=constraint_of,
                      entry="p")  # fmt: skip
    return run_passes((*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES), lower(file), context)[0]


def lifetimes(module: Module) -> list[tuple[str, dict]]:
    return [(operation.kind, thaw(operation["lifetime"])) for operation in module.walk()
            if operation.attribute("lifetime") is not None]  # fmt: skip


def test_the_next_round_of_a_loop_reads_what_the_last_one_made():
    """It was said that nothing reads them."""
    begin, words, said, stop = (life for _, life in lifetimes(plan(ROUNDS)))
    decode = said["at"]
    rest = {"first": decode, "last": decode, "reads": 1, "again": True}
    assert begin == {"at": begin["at"], **rest, "keep": "batch"} and begin["at"] < decode
    for life in (words, said, stop):
        assert life == {"at": life["at"], **rest, "keep": "row"}
    assert words["at"] < decode < stop["at"]


@pytest.mark.parametrize("text", [ROUNDS, EVERYTHING, LEAVES], ids=["rounds", "all", "leaves"])
def test_each_wrong_number_is_caught(text):
    module = plan(text)
    assert list(lifetimes_hold(module, module, Context())) == []
    faults = 0
    for at, (_, life) in enumerate(lifetimes(module)):
        wrong = {key: life.get(key, 0) + 1 for key in ("at", "first", "next", "last", "reads")}
        wrong["keep"] = "row" if life["keep"] == "batch" else "batch"
        wrong["again"] = not life.get("again")
        for key, value in wrong.items():
            broken = _with(module, at, freeze(life | {key: value}))
            assert len(list(lifetimes_hold(module, broken, Context()))) == 1, (at, key)
            faults += 1
    assert faults >= 28


def _with(module: Module, which: int, life) -> Module:
    seen = -1

    def rule(operation):
        nonlocal seen
        seen += operation.attribute("lifetime") is not None
        if seen == which and operation.attribute("lifetime") is not None:
            return [operation.with_attributes(lifetime=life)]
        return None

    return rewrite(module, rule)
