"""More programs of examples/*.weft as Python functions: the statements beyond fork and loops."""

# ruff: noqa: F841
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


TWINS = {"checked_tool": solve}
