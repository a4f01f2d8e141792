"""Validations: each accepts what its pass makes of a program, and catches planted faults."""

from dataclasses import replace

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module, Operation, Symbol, Table, make
from weft.ir.parser import parse_module
from weft.ir.types import INT
from weft.ir.verifier import verify
from weft.passes.manager import run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.rewrite import rewrite, substitute
from weft.passes.validation.proofs import equal
from weft.passes.validation.registry import CHECKS, ChangedMeaning, validation
from weft.passes.validation.terms import Terms
from weft.runtime.simulator import ToyTokenizer
from weft.tests.passes.validation.validation_cases import (
    STAGES,
    Fault,
    a_context,
    changed,
    each,
    once,
    problems,
)


@pytest.mark.parametrize("name", [name for name in STAGES if name in CHECKS])
def test_what_a_pass_makes_is_valid(name):
    before, after = STAGES[name]
    assert problems(name, before, after) == []


def test_every_pass_of_the_pipeline_has_a_check():
    steps = (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)
    assert [step.name for step in steps if step.name not in CHECKS] == []


def reversed_parts(operation: Operation) -> list[Operation]:
    return [operation.with_attributes(ids=operation["ids"][::-1])]


def other_tokens(operation: Operation) -> list[Operation]:
    """Encode byte by byte: the same text in other tokens."""
    data = b"".join(map(ToyTokenizer((" the", "ab")).token_bytes, operation["ids"]))
    return [operation.with_attributes(ids=[5 + byte for byte in data] or operation["ids"])]


def other_operand(operation: Operation) -> list[Operation]:
    last = operation.operands[-1]
    return [replace(operation, operands=(*operation.operands[:-1], replace(last, name="other")))]


def used_again(operation: Operation) -> list[Operation]:
    kv = operation.operands[0]
    number = replace(operation.results[-1], name="again")
    text = replace(number, name="text")
    return [
        operation,
        make("program.constant", results=(text,), value="a"),
        make("plan.score", kv, text, results=(number,)),
    ]


PROGRAM_FAULTS: dict[str, Fault] = {
    "a literal lost": each("program.literal", lambda op: [op.with_attributes(text="")]),
    "a text changed": each("program.literal", changed(text="other")),
    "another budget": each("program.gen", changed(max_tokens=1)),
    "another role": each("program.begin", changed(role="assistant")),
    "a condition turned": each(
        "program.if", lambda op: [replace(op, regions=op.regions[::-1])]
    ),
    "another operator": each("program.binary", changed(op="!=")),
    "another tool argument": each(
        "program.call_tool", lambda op: [replace(op, operands=(op.operands[0],) * 2)]
    ),
    "fewer options": each(
        "program.constant",
        lambda op: changed(value=("A",))(op) if op["value"] == ("A", "B") else None,
    ),
    "a tool with less time": each("program.tool", changed(timeout=1.0)),
    "a program that returns another type": each("program.func", changed(returns=INT)),
    "another default": each("program.func", lambda op: changed(parameters=tuple(
        Table((*entry.items, ("default", "x"))) for entry in op["parameters"]))(op)
        if op["parameters"] else None),
    "a record with another field": each("program.record", changed(fields=())),
}  # fmt: skip


@pytest.mark.parametrize("name", ["fold-constants", "drop-dead", "canonicalize"])
@pytest.mark.parametrize("fault", PROGRAM_FAULTS)
def test_a_fault_of_a_program_pass_is_caught(name, fault):
    before, after = STAGES[name]
    broken = rewrite(after, once(PROGRAM_FAULTS[fault]))
    assert broken != after and problems(name, before, broken)


def test_swapped_appends_are_caught():
    head = (
        "program.func name = @f, parameters = [], returns = str { |%s: stream, %x: str, %y: str|\n"
    )
    tail = '%c, %v = program.gen %b, name = "v", type = str, max_tokens = 4 : stream, str\n'
    texts = [
        f"%a = program.append %s, %{one} : stream\n%b = program.append %a, %{two} : stream\n"
        for one, two in ("xy", "yx")
    ]
    before, after = (parse_module(f"{head}{text}{tail}program.return %v\n}}") for text in texts)
    assert problems("canonicalize", before, before) == []
    assert problems("canonicalize", before, after)


ALIKE = """
program other(text: str) -> str:
    "({text}"
    gen more(max_tokens=3)
    return more

program main(arg: str) -> int:
    if len(arg) > 0:
        let dropped = call other("a")
    if len(arg) > 0:
        gen kept(max_tokens=3)
    return 7
"""


def test_what_stays_may_begin_like_what_is_dropped():
    file = parse_text(ALIKE)
    check(file)
    context = a_context()
    _, records = run_passes(PROGRAM_PASSES, lower(file), context)
    (dropped,) = (record for record in records if record.name == "drop-dead")
    assert dropped.changed and problems("drop-dead", dropped.before, dropped.after) == []
    lost = {}

    def without(operation):
        operation = substitute(operation, lost)
        if operation.name == "program.gen" and operation["name"] == "kept":
            lost[operation.results[0].name] = operation.operands[0]
            return []
        return [operation]

    assert problems("drop-dead", dropped.before, rewrite(dropped.before, without))


RETURNS = """
program main(arg: str) -> str:
    if len(arg) > 5:
        let kept = arg
        if arg == "b":
            let other = arg
        elif arg == "c":
            return "c"
        else:
            return "d"
        let last = arg[0]
    return "e"
"""


def test_an_if_whose_ways_all_return_may_stand_in_another():
    file = parse_text(RETURNS)
    check(file)
    _, records = run_passes(PROGRAM_PASSES, lower(file), a_context())
    for record in records:
        assert problems(record.name, record.before, record.after) == []
    _, dropped = next((r.before, r.after) for r in records if r.name == "drop-dead" and r.changed)
    turned = rewrite(dropped, once(PROGRAM_FAULTS["a condition turned"]))
    assert problems("drop-dead", dropped, turned)


def test_a_dropped_gen_or_tool_is_caught():
    before, _ = STAGES["drop-dead"]

    def without(operation):
        if operation.name == "program.call_tool":
            return [make("program.constant", results=operation.results, value="seen")]
        return None

    assert problems("drop-dead", before, rewrite(before, without))
    lost = {}

    def no_gen(operation):
        operation = substitute(operation, lost)
        if operation.name == "program.gen" and operation["name"] == "why":
            lost[operation.results[0].name] = operation.operands[0]
            return []
        return [operation]

    after = rewrite(before, no_gen)
    verify(after, ("program",))
    assert problems("drop-dead", before, after)


TOLD = """
tool tell(text: str) -> str
pure tool shout(text: str) -> str

program quiet(text: str) -> str:
    return shout(text)

program deep(text: str) -> str:
    let seen = tell(text)
    return text

program loud(text: str) -> str:
    return call deep(text)

program main(arg: str) -> str:
    let first = call {first}(arg)
    if len(arg) > 3:
        let second = call {second}(arg)
    gen last(max_tokens=3)
    return last
"""


def test_an_unused_call_that_reaches_a_tool_may_not_go():
    def problems_without(first: str, second: str) -> list[str]:
        before = lower(parse_text(TOLD.format(first=first, second=second)))
        context = a_context()
        calls = {"first", "second"}
        after = rewrite(
            before, lambda op: [] if op.results and op.results[0].name in calls else None
        )
        return list(CHECKS["drop-dead"](before, after, context))

    assert problems_without("quiet", "quiet") == []
    assert problems_without("loud", "quiet") and problems_without("quiet", "loud")


def test_a_change_beside_annotations_is_caught():
    before, after = STAGES["prefix-sharing"]
    broken = rewrite(after, once(each("program.gen", changed(max_tokens=9))))
    assert problems("prefix-sharing", before, broken)


PLAN_FAULTS: dict[str, Fault] = {
    "tokens in another order": each(
        "plan.tokens", lambda op: reversed_parts(op) if len(op["ids"]) > 1 else None
    ),
    "text in other tokens": each(
        "plan.tokens", lambda op: other_tokens(op) if len(op["ids"]) > 6 else None
    ),
    "a segment lost": each(
        "plan.extend",
        lambda op: [replace(op, operands=op.operands[:-1])] if len(op.operands) > 2 else None,
    ),
    "segments swapped": each(
        "plan.extend",
        lambda op: (
            [replace(op, operands=(op.operands[0], *op.operands[:0:-1]))]
            if len(op.operands) > 2
            else None
        ),
    ),
    "an unhealed space": each("plan.select", lambda op: [op.with_attributes(heal=None)]),
    "drawn otherwise": each("plan.decode", changed(temperature=0.5)),
    "a stop more": each("plan.decode", changed(stop="x")),
    "a token more": each("plan.decode", lambda op: changed(max_tokens=op["max_tokens"] + 1)(op)),
    "no end": each("plan.decode", changed(ends=None)),
    "held to what it is not": each("plan.decode", changed(constraint=Symbol("c"))),
    "scored by another rule": each("plan.select", changed(by="greedy")),
    "a fork over another list": each("plan.fork", other_operand),
    "another condition": each("plan.if", other_operand),
    "another value to return": each("plan.return", other_operand),
}


@pytest.mark.parametrize("fault", PLAN_FAULTS)
def test_a_fault_of_the_lowering_is_caught(fault):
    before, after = STAGES["lower-to-plan"]
    broken = rewrite(after, once(PLAN_FAULTS[fault]))
    assert broken != after and problems("lower-to-plan", before, broken)


def _freeing(loop: Operation) -> Operation:
    """A loop that frees the kv from outside that its rounds fork."""
    (region,) = loop.regions
    *body, end = region.operations
    kv = next(op for op in body if op.kind == "fork").operands[0]
    inside = replace(region, operations=(*body, make("plan.free", kv), end))
    return replace(loop, regions=(inside,))


KV_FAULTS: dict[str, Fault] = {
    "freed twice": each("plan.free", lambda op: [op, op]),
    "used after": each("plan.decode", used_again),
    "freed too early": each(
        "plan.decode", lambda op: [make("plan.free", op.operands[0]), op]
    ),
    "more than frees": each("plan.decode", changed(max_tokens=9)),
    "freed in every round": each("plan.for", lambda op: [_freeing(op)]),
}  # fmt: skip


@pytest.mark.parametrize("fault", KV_FAULTS)
def test_a_fault_of_the_frees_is_caught(fault):
    before, after = STAGES["free-kv"]
    broken = rewrite(after, once(KV_FAULTS[fault]))
    assert broken != after and problems("free-kv", before, broken)


def test_a_return_of_another_value_and_a_record_that_is_gone_are_caught():
    before, after = STAGES["canonicalize"]
    text = after.symbol("other").regions[0].arguments[-1]
    said = each("program.return", lambda op: [replace(op, operands=(*op.operands[:-1], text))])
    other = rewrite(Module((after.symbol("other"),)), said)
    kept = [op for op in after.operations if op != after.symbol("other")]
    (problem, *_) = problems("canonicalize", before, Module((*kept, *other.operations)))
    assert problem.startswith("program other: it ends in return ")
    kept = tuple(op for op in after.operations if op.name != "program.record")
    assert problems("canonicalize", before, Module(kept)) == ["record Note is gone"]


def test_a_branch_that_is_never_freed_is_caught():
    before, after = STAGES["free-kv"]
    assert problems("free-kv", before, rewrite(after, each("plan.free", lambda op: [])))


def test_the_manager_refuses_a_pass_that_fails_its_check():
    class Loses:
        name, reads, writes = "canonicalize", ("program",), ("program",)
        requires = ensures = ()
        keeps = ("*",)

        def run(self, module, context):
            return rewrite(module, each("program.literal", changed(text="lost")))

    context = a_context()
    context.validate = validation()
    before, _ = STAGES["canonicalize"]
    with pytest.raises(ChangedMeaning, match="pass canonicalize has changed .* program other"):
        run_passes((Loses(),), before, context)


def test_z3_shows_terms_equal_that_are_written_otherwise():
    terms = Terms()

    def binary(op, *operands):
        return terms.make("program.binary", (("op", op),), *operands)

    name = terms.make("argument", 1)
    length = terms.make("program.builtin", (("name", "len"),), name)
    two, four = terms.constant(2), terms.constant(4)
    once_, twice = binary("*", two, length), binary("+", length, length)
    assert equal(terms, (once_,), (twice,))
    assert equal(terms, (binary("<", once_, four),), (binary("<", length, two),))
    assert not equal(terms, (binary("<", once_, four),), (binary("<=", length, two),))
    left = terms.text([terms.constant("a"), name])
    either = terms.choice(binary("<", length, two), left, terms.text([name, terms.constant("a")]))
    same = terms.choice(binary(">=", length, two), terms.text([name, terms.constant("a")]), left)
    assert equal(terms, (either,), (same,)) and not equal(terms, (either,), (left,))


@pytest.mark.parametrize(
    "body",
    [
        # A kv that only an inner region which exits moves on, beside one that goes on.
        "if len(arg) > 1:\n        if len(arg) > 2:\n            gen a(max_tokens=2)\n"
        "            return a\n    return arg",
        # One side forks the stream, and both yield one.
        'if arg == "a":\n        fork 3 as f:\n            yield score("x")\n'
        '        join best(by=f)\n    "b"\n    gen a(max_tokens=2)\n    return a',
        # A fork of a stream that goes on outside of the if.
        'if arg == "a":\n        fork x in ["p", "q"] as f:\n            "z"\n'
        "            gen g(max_tokens=2)\n            yield g\n    gen a(max_tokens=2)\n"
        "    return a",
        # The last region of a match leaves, so the first one's stream goes on.
        'match arg:\n        case "a" | "b":\n            select s from ["a", "b"]\n'
        "        case _:\n            return arg\n    gen a(max_tokens=2)\n    return a",
    ],
)
def test_programs_whose_plans_were_once_wrong(body):
    file = parse_text(f"program p(arg: str) -> str:\n    {body}\n")
    check(file)
    context = a_context()
    context.entry, context.validate = "p", validation()
    run_passes((*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES), lower(file), context)
