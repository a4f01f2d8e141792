"""More programs of examples/*.weft as Python functions: the statements beyond fork and loops."""

# ruff: noqa: B006, F841
from typing import Literal

from weft.frontend.embedded import program, tool


@tool(timeout=2)
def work_out(expression: str) -> int:
    return 0


@program
def solve(s, question: str) -> str:
    """Ask for a sum, let a tool work it out, and give the model the tool's complaint where it fails."""  # noqa: E501
    s.user(f"{question}\nGive one expression, nothing else.")
    expression = s.assistant.gen(max_tokens=16, stop="\n")
    result = work_out(expression)
    match result:
        case Exception() as e:
            s.user(f"That cannot be worked out ({e.kind}: {e}). Give another expression.")
            expression = s.assistant.gen(max_tokens=16, stop="\n")
            result = work_out(expression)
        case _:
            s.user("Good.")
    match result:
        case Exception() as e:
            return f"no answer: {e}"
        case 0 | 1:
            return "almost nothing"
        case number:
            return f"{expression} = {number}"


@program
def critic(s, text: str, side: str) -> str:
    s.system("You are a critic.")
    s.user(f"What does this say about {side}? {text}")
    opinion = s.assistant.gen(max_tokens=16, stop="\n")
    return opinion


@program
def verdict(s, question: str) -> str:
    s.user(f"{question} Answer yes or no.")
    with s.assistant:
        answer = s.gen(Literal["yes", "no"])
        if answer == "no":
            return "no"
        s += ", because "
        reason = s.gen(max_tokens=12, stop=".")
    return f"yes: {reason}"


@program
def panel(s, text: str, sides: list[str] = ["service", "price"]) -> list[str]:
    s.user("Opinions on a review:")
    for side in sides:
        s.user(s.call(critic, text, side))
    good = s.inline(verdict, "Is it good?")
    fair = s.inline(verdict, "Is it fair?")
    return [good, fair]


TWINS = {"checked_tool": solve, "panel": panel}
