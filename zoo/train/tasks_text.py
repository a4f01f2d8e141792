"""Generators of tasks over text: records, essays, choices, classification, chat."""

from __future__ import annotations

import json
import random

from tasks_symbol import Message, given, maybe_system, say
from words import (
    ADJECTIVES,
    BAD,
    BAD_HELD,
    CITIES,
    COLORS,
    GOOD,
    GOOD_HELD,
    ITEMS,
    JOBS,
    NAMES,
    NOUNS,
    TOPICS,
    pick,
    some,
    words,
)


def person(rng: random.Random) -> tuple[dict[str, object], str]:
    """A person's record and a sentence that says it."""
    r: dict[str, object] = {"name": some(rng, NAMES), "age": rng.randint(18, 90),
                            "job": some(rng, JOBS), "city": some(rng, CITIES)}
    return r, pick(rng, "{name} is a {age}-year-old {job} from {city}.",
                   "{name}, aged {age}, lives in {city} and works as a {job}.",
                   "The {job} {name} lives in {city}. {name} is {age} years old.",
                   "In {city} there is a {job} called {name}, who is {age}.",
                   "Meet {name}: {age} years old, a {job} in {city}.").format(**r)


def order(rng: random.Random) -> tuple[dict[str, object], str]:
    """An order: a nested customer and an array of items."""
    name, city = some(rng, NAMES), some(rng, CITIES)
    picked = [some(rng, [i]) for i in rng.sample(ITEMS, rng.randint(1, 4))]
    items = [{"item": i, "count": rng.randint(1, 20)} for i in picked]
    bought = [f"{i['count']} {i['item']}" for i in items]
    text = bought[0] if len(bought) == 1 else ", ".join(bought[:-1]) + " and " + bought[-1]
    return ({"customer": {"name": name, "city": city}, "items": items},
            pick(rng, f"{name} from {city} ordered {text}.", f"{name} in {city} bought {text}.",
                 f"Please send {text} to {name} in {city}."))


def event(rng: random.Random) -> tuple[dict[str, object], str]:
    """A meeting: who, where, when."""
    who = [some(rng, [n]) for n in rng.sample(NAMES, rng.randint(2, 4))]
    day = pick(rng, "Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    city, hour = some(rng, CITIES), rng.randint(8, 18)
    text = ", ".join(who[:-1]) + " and " + who[-1]
    return ({"people": who, "city": city, "day": day, "hour": hour},
            pick(rng, f"{text} meet in {city} on {day} at {hour}.",
                 f"On {day} at {hour}, {text} will meet in {city}.",
                 f"There is a meeting in {city} on {day} at {hour} with {text}."))


def project(rec: dict[str, object], rng: random.Random) -> dict[str, object]:
    """A record with some of its fields left out, in a random order."""
    keys = rng.sample(list(rec), rng.randint(1, len(rec)))
    return {k: rec[k] for k in keys}


def extract(rng: random.Random, held: bool = False) -> list[Message]:
    """A sentence into a JSON record."""
    kind = rng.choice([person, person, order, event])
    rec, text = kind(rng)
    if rng.random() < 0.3:
        rec = project(rec, rng)
        ask = f"Extract {', '.join(rec)} as JSON.\nText: {text}"
    else:
        name = {person: "person", order: "order", event: "event"}[kind]
        types = json.dumps({k: type(v).__name__ for k, v in rec.items()})
        ask = pick(rng, f"Extract the {name} as JSON.\n{text}", f"Extract the {name}: {text}",
                   f"Text: {text}\nGive a JSON record of the {name}.",
                   f"{text}\nFill this schema: {types}")
    system = pick(rng, "", "You extract records from text.", "Answer in JSON.", "")
    return say(ask, json.dumps(rec), system=system)


def field(rng: random.Random, held: bool = False) -> list[Message]:
    """Read a field of a JSON record, several a conversation."""
    kind = rng.choice([person, order, event])
    rec, _ = kind(rng)
    flat = dict(rec)
    if kind is order:
        flat = {**rec["customer"], **{f"count of {i['item']}": i["count"] for i in rec["items"]}}
    turns: list[str] = []
    for i, key in enumerate(rng.sample(list(flat), min(len(flat), 1 if held else 3))):
        value = flat[key]
        value = ", ".join(value) if isinstance(value, list) else str(value)
        lead = json.dumps(rec) + "\n" if i == 0 else ""
        turns += [lead + pick(rng, f"What is the {key}?", f"Read the field: {key}",
                              f"Give the {key}."), value]
    return say(*turns, system=maybe_system(rng))


LEAD = {"clarity": ["The aim of this essay is clear:", "First,", "In short,", "To sum up,"],
        "evidence": ["A study in {city} showed that", "In {n} of 100 cases",
                     "Data from {city} say that", "According to {name},"]}
VAGUE = {"clarity": ["Stuff happens and", "Well, kind of", "Things are like"],
         "evidence": ["Maybe", "Some people guess that", "I feel that"]}
SIDES = ["clarity", "evidence", "style", "structure"]


def essay(rng: random.Random) -> tuple[str, dict[str, int]]:
    """An essay and its score from 1 to 10 on each side, readable from how sentences begin."""
    topic, parts = some(rng, NOUNS), []
    score = {}
    for side in ("clarity", "evidence"):
        good, bad = rng.randint(0, 3), rng.randint(0, 2)
        score[side] = max(1, min(10, 4 + 2 * good - 2 * bad))
        for lead in rng.choices(LEAD[side], k=good) + rng.choices(VAGUE[side], k=bad):
            lead = lead.format(city=some(rng, CITIES), name=some(rng, NAMES), n=rng.randint(10, 99))
            parts.append(lead + " " + body(rng, topic))
    for _ in range(rng.randint(1, 3)):  # neutral
        text = body(rng, topic)
        parts.append(text[0].upper() + text[1:])
    rng.shuffle(parts)
    score["style"] = (score["clarity"] + score["evidence"]) // 2
    score["structure"] = min(10, 1 + len(parts))
    return " ".join(parts), score


def body(rng: random.Random, topic: str) -> str:
    """A plain statement about a topic."""
    return pick(rng, "the {t} is {a}.", "people like the {t}.", "we need a {a} {t}.",
                "the {t} matters to the {o}.", "a {t} can help us.", "every {o} has a {t}.",
                "the {a} {t} was made before the {o}.").format(
        t=topic, a=rng.choice(ADJECTIVES), o=some(rng, NOUNS))


def strength(side: str, score: int, rng: random.Random) -> str:
    """What a reviewer says of a side with this score."""
    level = 0 if score <= 3 else 1 if score <= 6 else 2
    said = {"clarity": ("hard to follow", "mostly clear", "very clear"),
            "evidence": ("almost no evidence", "some evidence", "strong evidence"),
            "style": ("plain style", "fair style", "good style"),
            "structure": ("too short", "simple structure", "good structure")}
    return said[side][level]


def grade(scores: list[int]) -> str:
    """The grade that a list of scores earns."""
    mean = sum(scores) / len(scores)
    return "A" if mean >= 8 else "B" if mean >= 6 else "C" if mean >= 4 else "D"


JUDGE = "You judge student essays."


def judge(rng: random.Random, held: bool = False) -> list[Message]:
    """One side's review of an essay as a record."""
    text, score = essay(rng)
    side = rng.choice(SIDES)
    review = {"strength": strength(side, score[side], rng), "score": score[side]}
    ask = f"Essay ({len(text.split())} words):\n{text}"
    return [{"role": "system", "content": JUDGE}, {"role": "user", "content": ask},
            {"role": "user", "content": f"Judge only its {side}."},
            {"role": "assistant", "content": json.dumps(review)}]


ADVICE = ["Add facts and say your aim first.", "Give one clear aim and more evidence.",
          "Write shorter sentences and show evidence."]


def grading(rng: random.Random, held: bool = False) -> list[Message]:
    """The grade that follows from several reviews, with the essay above them."""
    text, score = essay(rng)
    sides = rng.sample(SIDES, rng.randint(1, 4))
    if rng.random() < 0.5:
        score = {s: rng.randint(1, 10) for s in SIDES}
    reviews = [{"strength": strength(s, score[s], rng), "score": score[s]} for s in sides]
    letter = grade([score[s] for s in sides])
    answer = f"Grade: {letter}"
    if letter == "D":
        answer += "\nAdvice: " + ADVICE[sum(score[s] for s in sides) % 3]
    lead = [{"role": "system", "content": JUDGE}]
    if rng.random() < 0.8:
        lead.append({"role": "user", "content": f"Essay ({len(text.split())} words):\n{text}"})
    said = {"role": "assistant", "content": answer}
    if rng.random() < 0.5:
        given(said, "Grade: ", *(["\nAdvice: "] if letter == "D" else []))
    return [*lead, {"role": "user", "content": f"Reviews:\n{json.dumps(reviews)}"}, said]


def begun(rng: random.Random, turns: list[Message], *starts: str) -> list[Message]:
    """Now and then begin the answer with a literal of the program, which carries no loss."""
    if rng.random() < 0.5:
        start = pick(rng, "Answer: ", "Answer: ", *starts)
        turns[-1]["content"] = start + turns[-1]["content"]
        given(turns[-1], start)
    return turns


def opinion(rng: random.Random, held: bool) -> tuple[str, str]:
    """A sentence of opinion and its sentiment; some are negated."""
    good = rng.random() < 0.5
    pool = (GOOD_HELD if held else GOOD) if good else (BAD_HELD if held else BAD)
    adjective, thing = rng.choice(pool), pick(rng, "film", "meal", "book", "hotel", "game", "phone",
                                              "show", "song", "car", "trip")
    negated = rng.random() < 0.4
    text = pick(rng, "The {t} was {n}{a}.", "I found the {t} {n}{a}.", "This {t} is {n}{a}.",
                "{w} said the {t} was {n}{a}.", "What we got was {n}{a}: the {t}.").format(
        t=thing, a=adjective, n="not " if negated else "", w=rng.choice(NAMES))
    return text, "positive" if good != negated else "negative"


def sentiment(rng: random.Random, held: bool = False) -> list[Message]:
    """Sentiment with negation; zero-shot or with examples in the prompt."""
    text, label = opinion(rng, held)
    if rng.random() < 0.5:
        shots = [opinion(rng, False) for _ in range(rng.randint(1, 5))]
        lines = [f"Review: {t}\nSentiment: {s}" for t, s in shots]
        ask = "\n\n".join([*lines, f"Review: {text}\nSentiment:"])
        lead = pick(rng, "", "Classify each review.\n\n", "Label the sentiment.\n\n")
        return say(lead + ask, label)
    ask = pick(rng, "Is this positive or negative? {}", "Sentiment of: {}",
               "Review: {}\nSentiment?", "Classify as positive or negative: {}")
    return begun(rng, say(ask.format(text), label, system=maybe_system(rng)), "Sentiment: ")


def topical(rng: random.Random) -> tuple[str, str]:
    """A sentence on one of four topics."""
    topic = rng.choice(list(TOPICS))
    a, b = rng.sample(TOPICS[topic], 2)
    return pick(rng, f"The {a} and the {b} surprised everyone.",
                f"Yesterday the {a} changed the {b}.",
                f"{rng.choice(NAMES)} talked about the {a} and a new {b}.",
                f"A {rng.choice(ADJECTIVES)} {a} needs a {b}."), topic


def topic(rng: random.Random, held: bool = False) -> list[Message]:
    """Topic of four, with shots or without."""
    text, label = topical(rng)
    shots = [topical(rng) for _ in range(rng.choice([0, 0, 2, 4]))]
    names = rng.sample(list(TOPICS), 4)
    head = pick(rng, f"Topics: {', '.join(names)}.\n", f"Choose one of {', '.join(names)}.\n")
    lines = [f"Text: {t}\nTopic: {s}\n" for t, s in shots]
    return begun(rng, say(head + "\n".join([*lines, f"Text: {text}\nTopic:"]), label), "Topic: ")


def choice(rng: random.Random, held: bool = False) -> list[Message]:
    """Multiple choice or yes/no over a given context."""
    facts = [(rng.choice(words(rng, 9)), rng.choice(COLORS), n) for n in
             rng.sample(NAMES, rng.randint(2, 5))]
    facts = [(some(rng, [t]), c, some(rng, [n])) for t, c, n in facts]
    context = " ".join(f"{n} has a {c} {t}." for t, c, n in facts)
    thing, color, name = rng.choice(facts)
    if rng.random() < 0.4:
        true = rng.random() < 0.5
        said = color if true else rng.choice([c for c in COLORS if c != color])
        ask = f"{context}\nIs it true that {name} has a {said} {thing}? Answer yes or no."
        return begun(rng, say(ask, "yes" if true else "no", system=maybe_system(rng)))
    options = [color, *rng.sample([c for c in COLORS if c != color], 3)]
    rng.shuffle(options)
    lines = "\n".join(f"{x}) {o}" for x, o in zip("ABCD", options, strict=True))
    letter = "ABCD"[options.index(color)]
    ask = f"{context}\nWhat color is the {thing} of {name}?\n{lines}"
    ask += pick(rng, "", "\nAnswer with a letter.")
    return begun(rng, say(ask, letter, system=maybe_system(rng)), "The answer is ")


def better(rng: random.Random, held: bool = False) -> list[Message]:
    """Which of two texts is better."""
    (one, a), (two, b) = opinion(rng, held), opinion(rng, held)
    while a == b:
        two, b = opinion(rng, held)
    best = "A" if a == "positive" else "B"
    ask = pick(rng, "Which is better, A or B?", "Which review is better, A or B?")
    return begun(rng, say(f"A: {one}\nB: {two}\n{ask}", best), "Better: ")


def points(rng: random.Random, held: bool = False) -> list[Message]:
    """A skeleton of points from a text, or one point written out."""
    facts = [some(rng, [t]) for t in rng.sample(NOUNS, rng.randint(2, 5))]
    about = [(t, rng.choice(ADJECTIVES)) for t in facts]
    text = " ".join(f"The {t} is {a}." for t, a in about)
    if rng.random() < 0.6:
        ask = pick(rng, "List the points of this text.", "Summarize as points.",
                   "Give the skeleton.")
        return say(f"{ask}\n{text}", "\n".join(f"- {a} {t}" for t, a in about))
    t, a = rng.choice(about)
    return say(f"Write one sentence for this point: {a} {t}", f"The {t} is {a}.")
