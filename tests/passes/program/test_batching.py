"""Critical paths and waves: what a plan says of order, checked exactly; faults are found."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from weft.cost_model.prices import Prices
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module, walk
from weft.passes.manager import run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.program.batching import Batching, waves
from weft.passes.rewrite import rewrite
from weft.passes.validation.critical import check_critical
from weft.tests.passes.validation.validation_cases import changed, each, once

TEXT = """
program helper(x: str) -> str:
    "{x}"
    gen short(max_tokens=7)
    gen longer(max_tokens=20)
    return longer

program main(x: str) -> str:
    let a = call helper(x)
    let b = call helper(x)
    fork side in ["p", "q"] as views:
        "the {side}"
        gen first(max_tokens=30)
        if len(first) > 3:
            gen second(max_tokens=11)
        yield first
    "{views}{a}{b}"
    gen last(max_tokens=5)
    return last
"""

DRAWS = """
program draws(x: str) -> list[str]:
    "{{x}}"
    fork 4 as words:
        gen word(max_tokens=5{options})
        yield {value}
    return words
"""


def planned(text, context):
    file = parse_text(text)
    check(file)
    passes = (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)
    return run_passes(passes, lower(file), context)[0]


def criticals(module):
    return {
        op["name"]: op["critical"]
        for op in module.walk()
        if op.name in {"plan.decode", "plan.fork"}
    }


def test_a_critical_path_is_the_longest_way_to_the_end(context):
    context.prices = Prices(1.0, 0.0)
    found = criticals(planned(TEXT, context))
    assert found["last"] == 5
    assert found["second"] == 11 and found["first"] == 30 + 11
    assert found["short"] == 27 and found["longer"] == 20
    assert found["views"] == 30 + 11
    calls = [op for op in planned(TEXT, context).walk() if op.name == "program.call"]
    assert [op["critical"] for op in calls] == [27 + 5, 27 + 5]


WAITS = """
program main(x: str) -> str:
    fork side in ["p", "q"] as f:
        "the {side}"
        gen first(max_tokens=60)
        yield first
    let seen = 0
    HEAD
        BODY
    gen last(max_tokens=60)
    return "{last}{seen}"
"""


@pytest.mark.parametrize(
    ("head", "body", "wanted"),
    [
        ('if f[0] == "b":', "seen = 1", 120),
        ("for each in f:", "seen = seen + 1", 120),
        ('while f[0] == "b" up to 3:', "seen = seen + 1", 120),
        ('for each in [x, "b"]:', 'if f[0] == "b":\n            seen = 1', 120),
        ('if x == "b":', "seen = 1", 60),
    ],
)
def test_what_stands_behind_a_condition_waits_for_it(context, head, body, wanted):
    context.prices = Prices(1.0, 0.0)
    text = WAITS.replace("HEAD", head).replace("BODY", body)
    module = planned(text, context)
    found = criticals(module)
    assert (found["f"], found["first"], found["last"]) == (wanted, wanted, 60)
    assert check_critical(module) == []
    if head.startswith(("if f", "for each in f")):
        early = rewrite(module, once(each("plan.fork", changed(critical=30))))
        assert "(30) is before gen last (60), but closer" in "".join(check_critical(early))


def test_what_stands_behind_a_fork_waits_for_no_condition_in_it(context):
    text = """program main(x: str) -> str:
    fork side in ["p", "q"] as f:
        "the {side}"
        gen first(max_tokens=60)
        let seen = 0
        if first == "b":
            seen = 1
        yield seen
    gen last(max_tokens=40)
    return "{last}{f}"
"""
    context.prices = Prices(1.0, 0.0)
    module = planned(text, context)
    found = criticals(module)
    assert (found["f"], found["first"], found["last"]) == (60, 60, 40)
    assert check_critical(module) == []


def test_waves_do_not_need_each_other(context):
    main = planned(TEXT, context).operations[-1]
    found = [(op.name, wave) for op, wave in waves(main.regions[0].operations)]
    assert found == [
        ("program.call", 0), ("program.call", 0), ("plan.fork", 0), ("plan.decode", 1),
    ]  # fmt: skip
    told = [remark.message for remark in context.remarks if remark.pass_name == "batching"]
    assert any("call helper, call helper, fork views do not need each other" in t for t in told)


@pytest.mark.parametrize(
    ("options", "value", "same"),
    [("", "word", True), (", temperature=1.0", "word", False), ("", '"{x}"', True)],
)
def test_equal_greedy_branches_are_told(context, options, value, same):
    planned(DRAWS.format(options=options, value=value), context)
    told = [remark.message for remark in context.remarks if remark.pass_name == "batching"]
    assert any("the same greedy work" in message for message in told) == same
    assert any("one row until they draw different" in message for message in told) != same


def test_a_plan_passes_its_checker_and_a_wrong_number_does_not(context):
    module = planned(TEXT, context)
    assert check_critical(module) == []

    two = planned(
        'program p(x: str) -> str:\n    "{x}"\n    gen a(max_tokens=9)\n'
        "    gen b(max_tokens=4)\n    return b\n",
        context,
    )
    assert check_critical(two) == []
    swapped = Module(
        tuple(
            replace(op, regions=(replace(op.regions[0], operations=tuple(
                inner.with_attributes(critical=5) if inner.attribute("name") == "a" else inner
                for inner in op.regions[0].operations)),))
            for op in two.operations
        )
    )  # fmt: skip
    assert "gen a (5) is before gen b (4), but closer to the end" in check_critical(swapped)[0]


def test_what_a_loop_does_besides_may_be_there_after_it(context):
    """The stream that leaves the loop does not wait for the branches in it, nor for their list."""
    module = planned(
        """
program word(x: str) -> str:
    "{x}"
    gen it(max_tokens=2)
    return it

program main(x: str, rounds: list[str]) -> str:
    let w = call word(x)
    for round in rounds:
        fork item in [w, x] as sides:
            yield item.upper()
        match round:
            case "1":
                "{x}"
    gen last(max_tokens=9)
    return last
""",
        context,
    )
    assert check_critical(module) == []


@pytest.mark.parametrize(
    "between",
    [
        'for x in items:\n        "{x}"\n        seen = seen + words[0]',
        'if arg == "a":\n        "{arg}"\n        seen = words[0]',
        'while arg == "a" up to 3:\n        "b"\n        seen = words[1]',
        "let one = inline first(words)\n    seen = one",
    ],
)
def test_each_result_waits_for_what_is_given_for_it(context, between):
    """The stream does not wait for the words that a value is made of beside it; once the words are
    on it, it does."""
    text = f"""
program first(words: list[str]) -> str:
    "b"
    return words[0]

program main(arg: str, items: list[str]) -> str:
    let seen = ""
    fork 2 as words:
        gen word(max_tokens=1)
        yield word
    {between}
    gen last(max_tokens=9)
    return last + seen
"""
    assert check_critical(planned(text, context)) == []
    on_it = re.sub(r'"(b|{x}|{arg})"', '"{words[0]}"', text)
    module = planned(on_it, context)
    assert check_critical(module) == []
    assert check_critical(rewrite(module, once(each("plan.fork", changed(critical=3)))))


def test_each_loop_is_measured_once(context):
    """Thirty loops in each other took 2^30 walks; five rounds of nine tokens are a way of 45."""
    context.prices, depth = Prices(1.0, 0.0), 30
    heads = "".join(f"{' ' * (at + 1)}for x{at} in xs:\n" for at in range(depth))
    body = f"{' ' * (depth + 1)}gen word(max_tokens=9)\n{' ' * (depth + 1)}said = said + word\n"
    text = 'program p(xs: list[str]) -> str:\n let said = ""\n' + heads + body + " return said\n"
    assert check_critical(planned(text, context)) == []
    five = (
        'program p() -> str:\n    let said = ""\n    while len(said) < 99 up to 5:\n'
        "        gen word(max_tokens=9)\n        said = said + word\n    return said\n"
    )
    assert criticals(planned(five, context))["word"] == 45


def test_the_pass_changes_nothing_but_annotations(context):
    module = planned(TEXT, context)
    again = Batching().run(module, context)
    assert again == module
    assert all(
        op.attribute("critical") is None
        for op in walk(module.operations)
        if op.name in {"plan.tokens", "plan.extend", "plan.free"}
    )


ACROSS = {
    "an if": 'if x == "b":',
    "a loop": "for each in [x, x]:",
    "a while": 'while x == "b" up to 3:',
    "an if in a loop": 'for each in [x, x]:\n        if each == "b":',
}


@pytest.mark.parametrize("head", ACROSS.values(), ids=ACROSS)
def test_a_call_in_another_block_is_not_closer_to_the_end(context, head):
    """Only calls of one block were compared: those inside an if or a loop could say anything."""
    inner = " " * (12 if "\n" in head else 8)
    text = (
        f'program main(x: str) -> str:\n    "{{x}}"\n    {head}\n{inner}gen first(max_tokens=5)\n'
    )
    text += '    "so"\n    gen last(max_tokens=60)\n    return last\n'
    context.prices = Prices(1.0, 0.0)
    module = planned(text, context)
    assert check_critical(module) == []
    early = rewrite(
        module,
        lambda op: [op.with_attributes(critical=30)] if op.attribute("name") == "first" else None,
    )
    assert "gen first (30) is before gen last (60), but closer" in "".join(check_critical(early))


def test_a_branch_is_not_closer_to_the_end_than_what_needs_it(context):
    text = """program main(x: str) -> str:
    "{x}"
    fork 2 as f:
        "a"
        gen first(max_tokens=5)
        yield first
    "{f}"
    gen last(max_tokens=60)
    return last
"""
    context.prices = Prices(1.0, 0.0)
    module = planned(text, context)
    assert check_critical(module) == []
    early = rewrite(
        module,
        lambda op: [op.with_attributes(critical=30)] if op.attribute("name") == "first" else None,
    )
    assert "gen first (30) is before gen last (60)" in "".join(check_critical(early))


@pytest.mark.parametrize("early", ["return l[0]", "for x in l:\n            return x"])
def test_what_an_inlined_program_is_left_with_early_is_waited_for(context, early):
    text = f"""
program inner(t: str) -> str:
    fork 2 as l:
        gen x(max_tokens=5, temperature=1.0)
        yield x
    if len(t) > 3:
        {early}
    return "short"

program main(arg: str) -> str:
    let w = inline inner(arg)
    "{{w}}"
    gen last(max_tokens=20)
    return last
"""
    context.prices = Prices(1.0, 0.0)
    module = planned(text, context)
    assert criticals(module)["l"] == 25 and check_critical(module) == []
    late = rewrite(module, each("plan.fork", changed(critical=5)))
    assert "fork l (5) is before gen last (20), but closer" in "".join(check_critical(late))


@pytest.mark.parametrize(
    "inside",
    [
        'if len(arg) > 0:\n            return g\n        else:\n            let f = score("b")',
        "fork 2 as f:\n            let w = inline inner(arg)\n            yield w",
    ],
)
def test_what_a_branch_does_besides_is_not_waited_for(context, inside):
    """Whether the program goes on is known before: neither a score, nor what is returned, nor
    what an inlined program in a fork is left with, decides it."""
    text = f"""
program inner(t: str) -> str:
    "{{t}}"
    gen more(max_tokens=3)
    if len(more) > 2:
        return more
    ")"
    return "short"

program main(arg: str) -> str:
    let s = score("c")
    gen g(max_tokens=6)
    if g == "a":
        gen h(max_tokens=4)
    else:
        {inside}
    gen last(max_tokens=20)
    return last
"""
    module = planned(text, context)
    assert criticals(module)["g"] == 30 and check_critical(module) == []
