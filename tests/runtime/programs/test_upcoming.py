"""What is known of a row's prompts is known early: the rest of the program adds nothing to it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft.passes.program.prefixes.tree import PlanPrefixes
from weft.passes.program.prefixes.values import Unknown
from weft.tests.each_time import examples
from weft.tests.runtime.programs import test_random_programs as random_programs


def known_of_all(prefixes, arguments):
    """The known beginnings of all calls, each once, in the order of the calls."""
    found = {}
    for call in prefixes._walk.row(0, arguments):
        elements = call.prompt.elements
        unknown = [at for at, each in enumerate(elements) if isinstance(each, Unknown)]
        found[elements[: unknown[0] if unknown else len(elements)]] = None
    return list(found)


@settings(
    max_examples=examples(60), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                           HealthCheck.data_too_large],
)  # fmt: skip
@given(text=random_programs.programs(), row=st.sampled_from(["hello", "", "a b"]))
def test_beginnings_are_those_of_all_calls(toy, text, row):
    plan, tokenizer = toy.plan(toy.lowered(text)), toy.tokenizer
    (name,) = [op["name"].name for op in plan.operations if op.name == "plan.func"][-1:]
    parameters = [entry["name"] for entry in plan.symbol(name)["parameters"]]
    prefixes = PlanPrefixes(plan, name, tokenizer)
    arguments = dict.fromkeys(parameters, row)
    assert prefixes.known(arguments) == known_of_all(prefixes, arguments)


CALLS = """
program inner(arg: str) -> str:
    "Inner {arg}: "
    gen x(max_tokens=4)
    return x

program p(arg: str) -> str:
    "About {arg}: "
    gen first(max_tokens=4)
    let second = call inner(arg)
    return second
"""
TWICE = CALLS.replace("call inner(arg)", "first")


@pytest.mark.parametrize("text, count", [(CALLS, 2), (TWICE, 1)])
def test_a_program_that_calls_another_is_walked_to_its_end(toy, text, count):
    plan = toy.plan(toy.lowered(text))
    prefixes = PlanPrefixes(plan, "p", toy.tokenizer)
    assert len(prefixes.known({"arg": "a b"})) == count
    prefixes._walk._one_stream = True  # a walk that stops too early misses the callee's prompt
    assert len(prefixes.known({"arg": "a b"})) == 1


def test_a_walk_that_was_left_can_begin_again(toy):
    plan = toy.plan(toy.lowered(TWICE))
    prefixes = PlanPrefixes(plan, "p", toy.tokenizer)
    first = prefixes.known({"arg": "a b"})
    assert prefixes.known({"arg": "hello"}) != first == prefixes.known({"arg": "a b"})
    assert len(prefixes.tree([{"arg": "a b"}]).calls) == 1


def test_arguments_are_known_by_their_parameters_where_another_program_has_the_same(toy):
    """Values have names of their own in a file: `%arg` of one program is `%arg_1` of the next."""
    plan = toy.plan(toy.lowered(CALLS.replace("program p", 'program q(arg: str) -> str:\n    "{arg}"\n    gen y(max_tokens=2)\n    return y\n\nprogram p')))  # fmt: skip # noqa: E501
    known = PlanPrefixes(plan, "p", toy.tokenizer).known({"arg": "a b"})
    text = [toy.tokenizer.decode([id for id in ids if id > 4]) for ids in known]
    assert text == ["About a b:", "Inner a b:"]
