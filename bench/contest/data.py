"""Rows for the benchmark programs: synthetic, from a seed; nothing is copied from a data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]

NAMES = "Anna Ben Clara David Emma Felix Greta Henry Irene Lucas Maria Nina Oscar Ruth Tom".split()
CITIES = "Paris London Berlin Madrid Rome Vienna Oslo Lisbon Prague Athens Boston Dublin".split()
NOUNS = """river stone cloud table window garden bridge candle mirror basket hammer ladder bottle
engine forest island kettle market needle rabbit tunnel wagon harbor tiger valley""".split()
ADJECTIVES = "small large quiet bright old new heavy narrow warm cold soft plain strange".split()
VERBS = "sees finds likes holds moves paints sells keeps follows carries".split()
GOOD = "great excellent wonderful lovely superb brilliant delightful charming".split()
BAD = "terrible awful boring dreadful poor disappointing dull unpleasant".split()
THINGS = "film book hotel meal show phone song play".split()
ITEMS = "apples pens eggs lamps cups books plates shirts".split()
SUBJECTS = "rivers bridges candles markets engines forests islands gardens".split()
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "data"


def sentence(rng: Random) -> str:
    """Return about twelve tokens of text."""
    first, second = rng.sample(NOUNS, 2)
    return (
        f"The {rng.choice(ADJECTIVES)} {first} {rng.choice(VERBS)} the "
        f"{rng.choice(ADJECTIVES)} {second} near the {rng.choice(NOUNS)}."
    )


def text(rng: Random, sentences: int) -> str:
    """Return some sentences."""
    return " ".join(sentence(rng) for _ in range(sentences))


def shipped(name: str) -> list[Row]:
    """Return the rows that the repository ships for an example."""
    lines = (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def distinct(make: Callable[[Random], Row], rng: Random, count: int) -> list[Row]:
    """Return rows no two of which are equal: equal rows would be computed once, and flatter."""
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = make(rng)
        rows[json.dumps(row)] = row
    return list(rows.values())


def who(rng: Random) -> str:
    """Return a question."""
    return f"Who {rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}?"


# The programs of the language.


def essays(rng: Random, count: int) -> list[Row]:
    """Return essays of a few sentences."""
    begin = "The aim of this essay is clear: we need a new {}. A study in {} showed why."
    return [
        {"essay": f"{begin.format(rng.choice(NOUNS), rng.choice(CITIES))} {text(rng, 6)}"}
        for _ in range(count)
    ]


def reviews(rng: Random, count: int) -> list[Row]:
    """Return one-sentence reviews."""
    return distinct(
        lambda r: {"review": f"{sentence(r)} It was {r.choice(GOOD + BAD)}."}, rng, count
    )


def review(rng: Random) -> str:
    """Return an opinion."""
    return f"The {rng.choice(THINGS)} was {rng.choice(GOOD + BAD)}."


def orders(rng: Random, count: int) -> list[Row]:
    """Return orders of one to three items."""
    rows = []
    for _ in range(count):
        items = [f"{rng.randint(2, 12)} {item}" for item in rng.sample(ITEMS, rng.randint(1, 3))]
        listed = ", ".join(items[:-1]) + " and " * (len(items) > 1) + items[-1]
        rows.append({"text": f"{rng.choice(NAMES)} from {rng.choice(CITIES)} ordered {listed}."})
    return rows


def chats(rng: Random, count: int) -> list[Row]:
    """Return conversations of four messages."""
    last = ["What is my name?", "How many days are in a week?", "What color is the sky?"]
    return [
        {
            "messages": [
                f"Hello, I am {rng.choice(NAMES)}.",
                f"I like the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}.",
                *rng.sample(last, 2),
            ]
        }
        for _ in range(count)
    ]


def sums(rng: Random, count: int) -> list[Row]:
    """Return questions for the calculator."""

    def one(r: Random) -> Row:
        sign = r.choice(["+", "-", "times"])
        return {"question": f"What is {r.randint(100, 999)} {sign} {r.randint(10, 99)}?"}

    return distinct(one, rng, count)


def number_games(rng: Random, count: int) -> list[Row]:
    """Return pairs of a number and a target."""
    return distinct(lambda r: {"number": r.randint(1, 30), "target": r.randint(1, 30)}, rng, count)


def topics(rng: Random, count: int) -> list[Row]:
    """Return things to write about."""
    return distinct(lambda r: {"topic": f"a {r.choice(ADJECTIVES)} {r.choice(NOUNS)}"}, rng, count)


def short_texts(rng: Random, count: int) -> list[Row]:
    """Return texts of four short sentences."""
    return [
        {"text": " ".join(f"The {n} is {rng.choice(ADJECTIVES)}." for n in rng.sample(NOUNS, 4))}
        for _ in range(count)
    ]


def word_problems(rng: Random, count: int) -> list[Row]:
    """Return sums in words."""
    return [{"question": word_problem(rng)} for _ in range(count)]


def word_problem(rng: Random) -> str:
    """Return a question of two steps."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    have, more, less = rng.randint(10, 40), rng.randint(2, 9), rng.randint(2, 9)
    return (
        f"{name} has {have} {item}. {name} gets {more} more. {name} gives away {less}. "
        "How many are left?"
    )


def ranges(rng: Random, count: int) -> list[Row]:
    """Return ranges for a number to lie in."""

    def one(r: Random) -> Row:
        low = r.randint(1, 80)
        return {"low": low, "high": low + r.randint(5, 20)}

    return distinct(one, rng, count)


def opinions(rng: Random, count: int) -> list[Row]:
    """Return texts for a panel of critics."""
    return distinct(lambda r: {"text": f"{review(r)} {review(r)}"}, rng, count)


def questions(rng: Random, count: int) -> list[Row]:
    """Return yes-or-no questions."""
    return distinct(lambda r: {"question": f"{sentence(r)} Is that good?"}, rng, count)


# SGLang's shapes.


def mmlu(rng: Random, count: int) -> list[Row]:
    """Return questions of four subjects in turn, each subject with its five examples."""
    few = {
        subject: "".join(
            f"{choice_question(rng)}\nAnswer: {rng.choice('ABCD')}\n\n" for _ in range(5)
        )
        for subject in SUBJECTS[:4]
    }
    rows = []
    for number in range(count):
        subject = list(few)[number % 4]
        row = {"subject": subject, "examples": few[subject], "question": choice_question(rng)}
        rows.append(row)
    return rows


def choice_question(rng: Random) -> str:
    """Return a question with four answers, some 80 tokens."""
    options = "\n".join(f"{letter}. {sentence(rng)}" for letter in "ABCD")
    return f"{text(rng, 2)} Which of these is true of it?\n{options}"


def hellaswag(rng: Random, count: int) -> list[Row]:
    """Return beginnings with four endings after twenty examples that all share."""
    examples = "".join(f"{text(rng, 2)} {sentence(rng)}\n\n" for _ in range(20))
    return [
        {
            "examples": examples,
            "beginning": f"{text(rng, 2)} ",
            "endings": [text(rng, 2) for _ in range(4)],
        }
        for _ in range(count)
    ]


def react_replay(rng: Random, count: int) -> list[Row]:
    """Return questions with a template of worked examples that all share."""
    template = "Answer a question with interleaved Thought, Action, Observation steps.\n"
    for _ in range(4):
        noun = rng.choice(NOUNS)
        template += (
            f"Question: Where is the {noun}?\nThought 0: I need to find the {noun}.\n"
            f"Action 0: Search[{noun}]\nObservation 0: {text(rng, 3)}\n"
            f"Thought 1: It is near.\nAction 1: Finish[{rng.choice(CITIES)}]\n\n"
        )
    return [
        {
            "template": template,
            "question": who(rng),
            "steps": 4,
        }
        for _ in range(count)
    ]


def agents(rng: Random, count: int) -> list[Row]:
    """Return people with three events of their day."""
    return [
        {
            "name": f"{rng.choice(NAMES)} {rng.choice(CITIES)}",
            "place": f"the {rng.choice(ADJECTIVES)} town",
            "events": [f"painting the {noun}" for noun in rng.sample(NOUNS, 3)],
        }
        for _ in range(count)
    ]


def articles(rng: Random, count: int) -> list[Row]:
    """Return articles of some 350 tokens."""
    return [{"article": text(rng, 24)} for _ in range(count)]


def names(rng: Random, count: int) -> list[Row]:
    """Return names of characters."""
    return distinct(lambda r: {"name": f"{r.choice(NAMES)} {r.choice(CITIES)}"}, rng, count)


def documents(rng: Random, count: int) -> list[Row]:
    """Return pages of some 800 tokens about a city."""
    return [
        {
            "document": f"{text(rng, 26)} {city} lies {rng.randint(2, 900)} metres high; "
            f"{rng.randint(1000, 90000)} people live there. {text(rng, 26)}"
        }
        for city in (rng.choice(CITIES) for _ in range(count))
    ]


def conversations(rng: Random, count: int) -> list[Row]:
    """Return four turns of some 90 tokens each, no two alike."""
    return [{"turns": [text(rng, 6) for _ in range(4)]} for _ in range(count)]


def rag(rng: Random, count: int) -> list[Row]:
    """Return questions with demonstrations that all share."""
    shown = "".join(
        f"Question: What is the {noun} like?\nReasoning: {sentence(rng)}\n"
        f"Answer: {rng.choice(ADJECTIVES)}\n\n"
        for noun in rng.sample(NOUNS, 8)
    )
    return [
        {
            "demonstrations": shown,
            "question": who(rng),
        }
        for _ in range(count)
    ]


def comparisons(rng: Random, count: int) -> list[Row]:
    """Return pairs of reviews."""
    return distinct(lambda r: {"one": review(r), "two": review(r)}, rng, count)
