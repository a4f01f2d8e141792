"""Generators of tasks with one right answer: copying, sorting, arithmetic, tools, search."""

from __future__ import annotations

import random
from typing import Any

from words import JOBS, LETTERS, NAMES, NOUNS, key8, pick, some, words

Message = dict[str, Any]


def say(*turns: str, system: str = "") -> list[Message]:
    """Alternate user and assistant turns, after an optional system prompt."""
    roles = ["user", "assistant"] * len(turns)
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]


def given(message: Message, *parts: str) -> Message:
    """Mark parts of an assistant's message as written by the program: no loss on them."""
    spans, at = [], 0
    for part in parts:
        at = message["content"].index(part, at)
        spans.append((at, at + len(part)))
        at += len(part)
    message["given"] = spans
    return message


def maybe_system(rng: random.Random, share: float = 0.3) -> str:
    """A general system prompt, or none."""
    if rng.random() > share:
        return ""
    return pick(rng, "You are a helpful assistant.", "Answer briefly.", "You are precise.",
                "Follow the instruction exactly.", "You help with small tasks.",
                f"You are a {some(rng, JOBS)}.")


def things(rng: random.Random, held: bool) -> list[str]:
    """A list of words, letters, numbers or keys to move around."""
    count = rng.randint(2, 10) if held else rng.randint(2, 13)
    kind = rng.random()
    if kind < 0.5:
        return words(rng, count)
    if kind < 0.7:
        return [str(rng.randint(0, 99)) for _ in range(count)]
    if kind < 0.85:
        return rng.sample(LETTERS, count)
    return [key8(rng) for _ in range(max(2, count // 3))]


def joined(rng: random.Random, parts: list[str]) -> tuple[str, str]:
    """The parts as one text, and the separator used."""
    sep = pick(rng, ", ", " ", ", ")
    return sep.join(parts), sep


def copy(rng: random.Random, held: bool = False) -> list[Message]:
    """Repeat a list."""
    text, _ = joined(rng, things(rng, held))
    ask = pick(rng, "Copy: {}", "Repeat this: {}", "Say exactly: {}", "Write this again: {}")
    return say(ask.format(text), text, system=maybe_system(rng))


def reverse(rng: random.Random, held: bool = False) -> list[Message]:
    """Reverse a list."""
    parts = things(rng, held)[:10]
    text, sep = joined(rng, parts)
    ask = pick(rng, "Reverse: {}", "Write in reverse order: {}", "Put this list backwards: {}")
    return say(ask.format(text), sep.join(parts[::-1]), system=maybe_system(rng))


def sort(rng: random.Random, held: bool = False) -> list[Message]:
    """Sort words by the alphabet or numbers by size."""
    count = rng.randint(2, 8) if held else rng.randint(2, 10)
    if rng.random() < 0.5:
        parts, ordered = words(rng, count), None
        ask = pick(rng, "Sort: {}", "Sort alphabetically: {}", "Put these words in order: {}")
        ordered = sorted(parts)
    else:
        numbers = [rng.randint(0, 99) for _ in range(count)]
        down = rng.random() < 0.3
        ask = (pick(rng, "Sort descending: {}", "Sort from largest to smallest: {}") if down
               else pick(rng, "Sort: {}", "Sort ascending: {}", "Sort from small to large: {}"))
        parts = [str(n) for n in numbers]
        ordered = [str(n) for n in sorted(numbers, reverse=down)]
    text, sep = joined(rng, parts)
    return say(ask.format(text), sep.join(ordered), system=maybe_system(rng))


def pair(rng: random.Random, held: bool, top: int = 99) -> tuple[int, int]:
    """Two numbers; one pair in ten is kept for evaluation."""
    while True:
        a, b = rng.randint(0, top), rng.randint(0, top)
        if ((a * 131 + b * 37) % 10 == 0) == held:
            return a, b


def arithmetic(rng: random.Random, held: bool = False) -> list[Message]:
    """Addition and subtraction of two-digit numbers, several a conversation."""
    turns: list[str] = []
    for _ in range(1 if held else rng.randint(1, 8)):
        a, b = pair(rng, held)
        if rng.random() < 0.5:
            ask = pick(rng, "{}+{}", "{} + {} =", "What is {} + {}?", "Add {} and {}.")
            value = a + b
        else:
            a, b = max(a, b), min(a, b)
            ask = pick(rng, "{}-{}", "{} - {} =", "What is {} - {}?", "What is {} minus {}?")
            value = a - b
        turns += [ask.format(a, b), str(value)]
    return say(*turns, system=maybe_system(rng))


def compare(rng: random.Random, held: bool = False) -> list[Message]:
    """Which number is larger or smaller, or whether a comparison holds."""
    turns: list[str] = []
    for _ in range(1 if held else rng.randint(1, 4)):
        a, b = pair(rng, held)
        if rng.random() < 0.5:
            large = rng.random() < 0.5
            word = pick(rng, "larger", "bigger") if large else "smaller"
            answer = str(max(a, b) if large else min(a, b))
            turns += [f"Which is {word}, {a} or {b}?", answer]
        else:
            turns += [f"Is {a} greater than {b}?", "yes" if a > b else "no"]
    return say(*turns, system=maybe_system(rng))


def count(rng: random.Random, held: bool = False) -> list[Message]:
    """Count words in a list, or one word among others."""
    number = rng.randint(1, 10)
    if rng.random() < 0.5:
        return say(f"How many words are in this list? {', '.join(words(rng, number))}", str(number))
    kinds = words(rng, rng.randint(2, 4))
    parts = [rng.choice(kinds) for _ in range(number + 1)]
    return say(f"How many times does {kinds[0]} occur? {' '.join(parts)}",
               str(parts.count(kinds[0])))


def steps(rng: random.Random, held: bool = False) -> list[Message]:
    """A story sum with the steps written out, then `Answer: N`."""
    who, thing = some(rng, NAMES), some(rng, NOUNS)
    have, _ = pair(rng, held, 49)
    text, lines = f"{who} has {have} {thing}s.", []
    for _ in range(rng.randint(1, 3)):
        n = rng.randint(1, 20)
        if rng.random() < 0.5 or n > have:
            text += pick(rng, f" {who} gets {n} more.", f" {who} buys {n} more.")
            lines.append(f"{have} + {n} = {have + n}.")
            have += n
        else:
            text += pick(rng, f" {who} gives away {n}.", f" {who} loses {n}.")
            lines.append(f"{have} - {n} = {have - n}.")
            have -= n
    ask = pick(rng, " How many are left?", f" How many {thing}s does {who} have now?")
    end = pick(rng, "", " Think step by step.", "\nThink step by step, then give the answer.")
    return say(text + ask + end, " ".join(lines) + f"\nAnswer: {have}", system=maybe_system(rng))


TOOL = "You can use calc. Write Action: calc(...), read the Observation, then write the Answer."
THINK = "Think, use calc as Action: calc(...), read the Observation, then write the Answer."


def react(rng: random.Random, held: bool = False) -> list[Message]:
    """The tool loop: `Action: calc(12+7)`, `Observation: 19`, `Answer: 19`."""
    a, b = rng.randint(10, 999), rng.randint(10, 999)
    story, sign = some(rng, NAMES), "+"
    seen: list[str] = []
    value = a + b
    kind = rng.random()
    if kind < 0.35:
        ask = pick(rng, f"What is {a} + {b}?", f"{a} plus {b}?", f"Compute {a}+{b}.")
    elif kind < 0.7:
        a, b = max(a, b), min(a, b)
        ask, sign, value = pick(rng, f"What is {a} - {b}?", f"Compute {a}-{b}."), "-", a - b
    elif kind < 0.85:
        a, b, sign = rng.randint(2, 99), rng.randint(2, 99), "*"
        ask, value = pick(rng, f"What is {a} times {b}?", f"What is {a} * {b}?"), a * b
    else:
        ask = f"{story} has {a} coins and finds {b} more. How many coins has {story}?"
    think = rng.random() < 0.4
    thought = "Thought: I should calculate.\n" if think else ""
    seen.append(f" {value}\n")
    lines = f"{thought}Action: calc({a}{sign}{b})\nObservation: {value}\n"
    if kind < 0.35 and rng.random() < 0.4:
        c = rng.randint(2, 99)
        ask += f" Then subtract {min(c, value)}."
        value, old = value - min(c, value), value
        lines += f"{thought}Action: calc({old}-{old - value})\nObservation: {value}\n"
        seen.append(f" {value}\n")
    prefix = pick(rng, "", "Question: ")
    turns = say(prefix + ask, lines + f"Answer: {value}", system=THINK if think else TOOL)
    if held or sign == "*":  # the tool says these, not the model
        given(turns[-1], *seen)
    return turns


def search(rng: random.Random, held: bool = False) -> list[Message]:
    """A number game: propose the next step from a number towards a target."""
    now, target = rng.randint(1, 40), rng.randint(1, 60)
    rule = "Allowed: +1, +5, +10, -1, -5, -10."
    if rng.random() < 0.5:
        gap = target - now
        size = next((s for s in (10, 5, 1) if abs(gap) >= s), 0)
        move = "stop" if not gap else f"{'+' if gap > 0 else '-'}{size}"
        after = now if not gap else now + (size if gap > 0 else -size)
        return say(f"Number: {now}. Target: {target}. {rule}\nNext step?",
                   f"Next step: {move}\nNumber: {after}")
    if rng.random() < 0.6:
        moves = sorted((10, 5, 1, -1, -5, -10), key=lambda m: (abs(target - now - m), -m))
        wanted = rng.randint(2, 3)
        return say(f"Number: {now}. Target: {target}. {rule}\nPropose {wanted} next steps.",
                   "\n".join(f"- {m:+d}: {now + m}" for m in moves[:wanted]))
    other = rng.randint(1, 60)
    best = "A" if abs(target - now) <= abs(target - other) else "B"
    return say(f"Target: {target}. Which is closer, A: {now} or B: {other}?", f"Answer: {best}")


def retry(rng: random.Random, held: bool = False) -> list[Message]:
    """A checker's error is read and obeyed in the next try."""
    noun, low = some(rng, NOUNS), rng.randint(1, 60)
    high = low + rng.randint(5, 30)
    wrong = rng.choice([low - 1 - rng.randint(0, 9), high + rng.randint(1, 30)])
    kind = rng.random()
    if kind < 0.35:
        side = "too small" if wrong < low else "too large"
        fix = low if wrong < low else high
        feedback = f"Error: {wrong} is {side}. The limit is {fix}. Try again."
        first, second = str(wrong), str(fix)
        ask = "Give a number."
    elif kind < 0.7:
        first, second = noun, noun.upper() if rng.random() < 0.5 else noun.capitalize()
        how = "in capital letters" if second.isupper() else "with a capital first letter"
        ask, feedback = f"Write the word {noun}.", f"Error: write it {how}. Try again."
    else:
        first = '{"name": "' + noun + '"'
        second = first + "}"
        ask = f"Give a JSON object with the name {noun}."
        feedback = "Error: the JSON is not closed. Try again."
    turns = say(ask, first, feedback, second)
    turns[1]["train"] = False
    return turns
