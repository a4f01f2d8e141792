"""The optimised run gives the tokens of the oracle, whatever the batch and the KV memory."""

from __future__ import annotations

import pytest

PROGRAMS = {
    "judge": """
record Review:
    strength: str(max_tokens=4)
    score: int(1..10)

tool word_count(text: str) -> int

program judge(essay: str, sides: list[str] = ["clarity", "evidence", "clarity again"]) -> str:
    system "You judge student essays."
    user "Essay ({word_count(essay)} words):\\n{essay}"
    fork side in sides as reviews:
        user "Judge only its {side}."
        assistant:
            gen review(max_tokens=80): Review
        yield review
    user "Reviews:\\n{reviews}"
    assistant:
        "Grade: "
        select grade from ["A", "B", "BC", "D"]
        if grade == "D":
            "\\nAdvice: "
            gen advice(max_tokens=20, stop="a")
        else:
            " and so "
            gen praise(max_tokens=20, stop=["b", "xy"])
    return grade
""",
    "loop": """
program loop(essay: str) -> list[str]:
    "Notes on {essay}: "
    let lines = [""]
    for number in range(3):
        "{number}. "
        gen line(max_tokens=6, temperature=0.8, top_p=0.9)
        lines = lines + [line]
        "\\n"
    while len(lines) < 7 up to 2:
        " more "
        gen more(max_tokens=4, temperature=1.5, min_p=0.01, top_k=50)
        lines = lines + [more]
    return lines
""",
    "tree": """
program tree(essay: str) -> list[list[str]]:
    "Question {essay} "
    fork 3 as outer:
        "idea: "
        gen idea(max_tokens=5, temperature=1.0)
        fork 2 as inner:
            gen step(max_tokens=4, temperature=1.0)
            yield "{step}!"
        yield inner
    "Done {outer} "
    gen end: int(1..20)
    return outer
""",
    "kinds": """
program kinds(essay: str) -> float:
    user "About {essay}. "
    assistant:
        gen sure: bool
        " and "
        gen kind: choice["good", "bad", "good enough"]
        " "
        gen number: float
        gen code: regex "[a-c]{2,4}-[0-9]+x"
        " list: "
        gen items(max_tokens=60): list[int(0..99)]
        select word(by="greedy") from ["yes", "no", "maybe so", "maybe not"]
        " or "
        select other(by="unconditional") from ["yes", "no", "{essay}"]
    return number
""",
}


def words(text: str) -> int:
    return len(text.split())


TOOLS = {"word_count": words}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("pages", [600, 110])
def test_rows_together_equal_the_oracle(toy, name, pages):
    text = PROGRAMS[name]
    rows = [{"essay": f"the sky{' is blue' * (i % 3)} {i // 2}"} for i in range(7)]
    executable = toy.compile(text, TOOLS, num_pages=pages, max_batch=8, max_tokens=24, seed=5)
    oracle = toy.oracle(text, TOOLS, seed=5)
    expected = [oracle(number, **row) for number, row in enumerate(rows)]
    together = executable.run_rows(rows)
    assert together.values == [result.value for result in expected]
    toy.assert_clean(executable)
    alone = executable.run(**rows[0])
    assert alone.value == expected[0].value
    assert alone.values == expected[0].values
    # The plan leaves out text that nothing reads after the last gen.
    assert toy.tokenizer.decode(expected[0].ids).startswith(alone.text)
    toy.assert_clean(executable)
