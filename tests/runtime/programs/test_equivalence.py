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
    "borders": """
program borders(essay: str) -> str:
    let spaced = essay + " "
    "Say "
    if len(essay) > 2:
        gen first(max_tokens=5)
    "{essay} "
    for number in range(2):
        gen again(max_tokens=4)
        " "
    gen number: int(0..50)
    "{spaced}"
    gen last(max_tokens=4)
    return last
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


def count_words(text: str) -> int:
    return len(text.split())


TOOLS = {"word_count": count_words}


@pytest.mark.parametrize("name", PROGRAMS)
def test_rows_together_equal_the_oracle(toy, name):
    text = PROGRAMS[name]
    rows = [{"essay": f"the sky{' is blue' * (i % 3)} {i // 2}"} for i in range(9)]
    oracle = toy.oracle(text, TOOLS, seed=5)
    expected = [oracle(number, **row) for number, row in enumerate(rows)]
    preemptions = []
    for pages in (900, 110, 92, 85):
        executable = toy.compile(
            text, TOOLS, num_pages=pages, max_batch=8, max_tokens=24, seed=5
        )  # fmt: skip
        for number, result in in_steps(executable, rows):
            assert result.value == expected[number].value
            assert result.values == expected[number].values
            # The plan leaves out text that nothing reads after the last gen.
            text_seen = toy.tokenizer.decode(expected[number].ids)
            assert text_seen.startswith(result.text)
            if pages == 900:
                assert executable.engine.tree.forgotten == 0  # else measured hits may be fewer
                assert result.stats.hits_predicted == result.stats.hits_measured
        preemptions.append(executable.engine.preemptions)
        toy.assert_clean(executable)
    assert preemptions[0] == 0
    if name == "judge":
        assert preemptions[-1] > 10


def in_steps(executable, rows):
    jobs = enumerate(executable.check_row(number, row) for number, row in enumerate(rows))
    for ended in executable.session().steps(jobs):
        for number, outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
            yield number, outcome
