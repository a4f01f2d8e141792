"""What tests of validations share: a program after each pass, and faults planted in it."""

from collections.abc import Callable

from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module, Operation
from weft.ir.verifier import InvalidIR, verify
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES
from weft.passes.validation.registry import CHECKS
from weft.runtime.simulator import ToyChat, ToyTokenizer

TEXT = """
tool look(text: str) -> str
pure tool shout(text: str) -> str

record Note:
    text: str

program other(text: str) -> str:
    "({text}"
    gen more(max_tokens=3)
    return more

program main(arg: str, items: list[str]) -> str:
    let unused = call other("x")
    system "You {shout('be kind')}."
    user:
        "About {arg} and more: "
        for word in ["a", "b"]:
            "<{word}>"
            gen part(max_tokens=2)
    if 1 + 1 == 2:
        " sure "
    for item in items:
        fork side in ["p", "q"] as sides:
            "{side} of {item}"
            gen said(max_tokens=3)
            yield said
    if len(arg) > 3:
        fork 2 as tries:
            gen try(max_tokens=2)
            yield len(try)
        join best(by=tries)
    let seen = look(arg)
    "{seen} "
    select grade from ["A", "B"]
    if grade == "A":
        gen why(max_tokens=4)
    return grade
"""


def a_context() -> Context:
    return Context(
        tokenizer=ToyTokenizer((" the", "ab")), chat=ToyChat(), constraint_of=constraint_of,
        pure_tools={"shout": str.upper}, entry="main",
    )  # fmt: skip


def stages() -> dict[str, tuple[Module, Module]]:
    """Return the module before and after each pass."""
    file = parse_text(TEXT)
    check(file)
    context = a_context()
    _, records = run_passes((*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES), lower(file), context)
    return {record.name: (record.before, record.after) for record in records}


STAGES = stages()


def problems(name: str, before: Module, after: Module) -> list[str]:
    return list(CHECKS[name](before, after, a_context()))


def is_valid(module: Module) -> bool:
    try:
        verify(module, ("program", "plan"))
    except InvalidIR:
        return False
    return True


Fault = Callable[[Operation], list[Operation] | None]


def each(name: str, change: Callable[[Operation], list[Operation]]) -> Fault:
    return lambda operation: change(operation) if operation.name == name else None


def changed(**attributes) -> Callable[[Operation], list[Operation]]:
    return lambda operation: [operation.with_attributes(**attributes)]


def once(fault: Fault) -> Fault:
    """Return a fault that happens to the first operation that it fits."""
    done: list[bool] = []

    def rule(operation: Operation) -> list[Operation] | None:
        found = None if done else fault(operation)
        if found is not None:
            done.append(True)
        return found

    return rule
