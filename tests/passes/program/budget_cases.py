"""What tests of budgets and of their proofs share: plans, a program, and a row's sizes."""

from __future__ import annotations

from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse_text
from weft.ir.budget import UNBOUNDED
from weft.passes.manager import run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES


def planned(text, context):
    file = parse_text(text)
    check(file)
    passes = (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)
    module = run_passes(passes, lower(file), context)[0]
    return [op for op in module.operations if op.name == "plan.func"]


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
