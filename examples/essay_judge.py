"""The program of essay_judge.weft as a Python function: it is read, never run."""

from dataclasses import dataclass
from typing import Annotated

import weft


@dataclass
class Review:
    """What one look at the essay says."""

    strength: Annotated[str, weft.limit(max_tokens=24)]
    score: Annotated[int, weft.between(1, 10)]


@weft.tool
def word_count(text: str) -> int:
    """Return the number of words."""
    return len(text.split())


@weft.program
def judge(s, essay: str, sides: list[str] = ["clarity", "evidence"]) -> str:  # noqa: B006
    """Judge an essay from several sides, then give one grade."""
    s.system("You judge student essays.")
    s.user(f"Essay ({word_count(essay)} words):\n{essay}")

    @s.fork(sides)
    def reviews(s, side):  # one branch a side; what it returns is an element of `reviews`
        s.user(f"Judge only its {side}.")
        review = s.assistant.gen(Review)
        return review

    s.user(f"Reviews:\n{reviews}")
    with s.assistant:
        s += "Grade: "
        grade = s.select(["A", "B", "C", "D"])
        if grade == "D":
            s += "\nAdvice: "
            advice = s.gen(max_tokens=48, stop="\n")  # noqa: F841
    return grade
