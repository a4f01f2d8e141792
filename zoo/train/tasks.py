"""All task generators, retrieval among them, and how an example becomes tokens with a loss mask."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import tasks_chat as chats
import tasks_symbol as symbols
import tasks_text as texts
from tasks_symbol import Message, say
from words import NAMES, NOUNS, key8, pick

SPECIALS = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, END = range(7)
ROLE = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
FILL = ["The {0} is near the {1}.", "{2} saw a {0} and a {1}.", "A {0} was left by the {1}.",
        "{2} and {3} talked about the {0}.", "Nobody knew why the {0} was behind the {1}."]


def value_of(rng: random.Random, kind: int) -> str:
    """A short value: a number, a word, or letters."""
    if kind == 0:
        return str(rng.randint(100, 9999))
    if kind == 1:
        return rng.choice(NOUNS)
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4))


def pairs(rng: random.Random, count: int, hard: bool) -> list[tuple[str, str]]:
    """`count` pairs of an 8-character random key and a value; `hard` adds shared prefixes."""
    keys: list[str] = []
    while len(keys) < count:
        if hard and rng.random() < 0.3:
            prefix = key8(rng)[: rng.randint(2, 6)]
            keys += [key8(rng, prefix) for _ in range(rng.randint(2, 4))]
        else:
            keys.append(key8(rng))
    keys = list(dict.fromkeys(keys))[:count]
    rng.shuffle(keys)
    kind = rng.choice([0, 0, 1, 2, 3])
    return [(k, value_of(rng, rng.randint(0, 2) if kind == 3 else kind)) for k in keys]


def layout(rng: random.Random, table: list[tuple[str, str]], style: int) -> str:
    """The pairs as the text of a prompt."""
    if style == 0:
        return "\n".join(f"{k}: {v}" for k, v in table)
    if style == 1:
        return "\n".join(f"{k} = {v}" for k, v in table)
    if style == 2:
        return json.dumps(dict(table))
    if style == 3:
        return "\n".join(f"The value of {k} is {v}." for k, v in table)
    out = []
    for k, v in table:  # needles in filler sentences
        for _ in range(rng.randint(0, 3)):
            out.append(rng.choice(FILL).format(*rng.sample(NOUNS, 2), *rng.sample(NAMES, 2)))
        out.append(f"The code of {k} is {v}.")
    return " ".join(out)


TOKENS_A_PAIR = (13, 14, 15, 17, 40)


def retrieval(rng: random.Random, held: bool = False, tokens: int = 512, style: int | None = None,
              turns: int | None = None, echo: float = 0.35,
              few: float = 0.0) -> list[Message]:
    """Pairs to fill `tokens`, then many questions about them, in one chat."""
    style = rng.choice([0, 0, 0, 1, 2, 3, 4]) if style is None else style
    asked = turns or max(2, min(40, int(tokens * rng.uniform(0.1, 0.5) / 20)))
    if rng.random() < few:  # the first question of a chat is the hardest: nothing warms it up
        asked = rng.randint(1, 4)
    room = tokens - asked * 19 - 30
    table = pairs(rng, max(2, room // TOKENS_A_PAIR[style]), held or rng.random() < 0.5)
    lead = pick(rng, "", "Remember these pairs.\n", "Here is a table.\n", "Read this:\n")
    queries = [rng.choice(table) for _ in range(asked)]
    mode = rng.random()
    text = lead + layout(rng, table, style)
    if mode < echo * 0.6:  # one list of questions, answered line by line
        ask = pick(rng, "Give the values of: ", "Look up: ") + ", ".join(k for k, _ in queries)
        return say(f"{text}\n\n{ask}", "\n".join(f"{k}: {v}" for k, v in queries))
    form = pick(rng, "What is the value of {}?", "{}?", "Look up {}.", "{}", "Value of {}:")
    out: list[str] = []
    for i, (k, v) in enumerate(queries):
        ask = form.format(k)
        out += [f"{text}\n\n{ask}" if i == 0 else ask, f"{k}: {v}" if mode < echo else v]
    messages = say(*out)
    if asked <= 4:
        messages[1]["weight"] = 2.5
    return messages


def recall(rng: random.Random, tokens: int) -> list[tuple[str, float]]:
    """Plain lines `key: value`, each key coming back later: loss on the values that come back."""
    count = max(2, int(tokens / 13 / rng.uniform(1.3, 3.0)))
    table, sep = pairs(rng, count, rng.random() < 0.3), pick(rng, ":", " =", " ->")
    lines: list[tuple[str, str, bool]] = [(k, v, False) for k, v in table]
    again = [rng.choice(table) for _ in range(max(1, tokens // 13 - count))]
    for k, v in again:
        lines.append((k, v, True))
    if rng.random() < 0.5:  # interleaved: a key may come back at any distance
        first, mixed = set(), lines[:]
        rng.shuffle(mixed)
        lines = []
        for k, v, _ in mixed:
            lines.append((k, v, k in first))
            first.add(k)
    out: list[tuple[str, float]] = []
    for k, v, back in lines:
        out += [(k + sep, 0.0), (f" {v}", 1.0 if back else 0.0), ("\n", 0.0)]
    return out


def induct(rng: random.Random, tokens: int) -> list[tuple[str, float]]:
    """A random sequence twice: loss on the second time."""
    parts = [pick(rng, key8(rng), rng.choice(NOUNS), str(rng.randint(0, 999)))
             for _ in range(max(2, tokens // 11))]
    text = " ".join(parts)
    return [(text, 0.0), ("\n", 0.0), (text[: max(1, text.find(" ", 3))], 0.0),
            (text[max(1, text.find(" ", 3)):], 0.6)]


Generator = Callable[..., list[Message]]
CHAT_TASKS: dict[str, Generator] = {
    "copy": symbols.copy, "reverse": symbols.reverse, "sort": symbols.sort,
    "arithmetic": symbols.arithmetic, "compare": symbols.compare, "count": symbols.count,
    "steps": symbols.steps, "react": symbols.react, "search": symbols.search,
    "retry": symbols.retry, "extract": texts.extract, "field": texts.field, "judge": texts.judge,
    "grading": texts.grading, "sentiment": texts.sentiment, "topic": texts.topic,
    "choice": texts.choice, "better": texts.better, "points": texts.points,
    "chat": chats.chat, "obey": chats.obey, "define": chats.define, "retrieval": retrieval,
}
WEIGHTS: dict[str, float] = {
    "copy": 4, "reverse": 4, "sort": 6, "arithmetic": 9, "compare": 3, "count": 3, "steps": 6,
    "react": 6, "search": 3, "retry": 2, "extract": 8, "field": 5, "judge": 9, "grading": 7,
    "sentiment": 3, "topic": 2, "choice": 6, "better": 2, "points": 3, "chat": 3, "obey": 3,
    "define": 2,
}

FOCUS = {"choice": 16, "better": 5, "sentiment": 6, "grading": 10, "count": 6, "sort": 9}


def encode(messages: list[Message], tokenizer: Any) -> tuple[list[int], list[float]]:
    """The tokens of a chat and each token's weight in the loss: assistant turns and their end."""
    ids, weights = [BOS], [0.0]
    newline = tokenizer.token_to_id("\u010a")
    for message in messages:
        found = tokenizer.encode(message["content"], add_special_tokens=False)
        said = float(message["role"] == "assistant" and message.get("train", True))
        said *= message.get("weight", 1.0)
        ids += [ROLE[message["role"]], newline, *found.ids, END, newline]
        body = [said] * len(found.ids)
        for start, end in message.get("given", ()) if said else ():
            for i, (a, b) in enumerate(found.offsets):
                if start <= a and b <= end:
                    body[i] = 0.0
        weights += [0.0, 0.0, *body, said, 0.0]
    return ids, weights


STARTS = ("Answer: ", "Result: ", "The answer is ", "Output: ", "Sure: ", "- ", "So: ")
NEEDS_SYSTEM = {"obey", "react", "judge", "grading", "define", "retrieval", "chat"}


def vary(rng: random.Random, messages: list[Message]) -> list[Message]:
    """Now and then a literal start of the answer, two user turns for one, or a second task."""
    last = messages[-1]
    if rng.random() < 0.1 and "given" not in last:
        start = rng.choice(STARTS)
        last["content"] = start + last["content"]
        last["given"] = [(0, len(start))]
    if rng.random() < 0.08:
        at = next(i for i, m in enumerate(messages) if m["role"] == "user")
        first, _, second = messages[at]["content"].partition("\n")
        if first and second.strip():
            messages[at : at + 1] = [{"role": "user", "content": first},
                                     {"role": "user", "content": second.strip("\n")}]
    if rng.random() < 0.1:
        name = rng.choice([n for n in WEIGHTS if n not in NEEDS_SYSTEM])
        messages += [m for m in CHAT_TASKS[name](rng) if m["role"] != "system"]
    return messages


def about_text(rng: random.Random, text: str) -> list[Message]:
    """Something to do with a piece of English: repeat it, its first sentence, its first word."""
    kind = rng.random()
    if kind < 0.5:
        return say(pick(rng, "Repeat this text:\n", "Copy this text:\n") + text, text)
    first = text.split(". ")[0].strip(" .\n") or text
    if kind < 0.7:
        return say(f"What is the first sentence?\n{text}", first + ".")
    parts = text.split()
    at = rng.randrange(max(1, len(parts) - 1))
    if kind < 0.85:
        return say(f"How does this text begin?\n{text}", " ".join(parts[:3]))
    return say(f"What comes after \"{' '.join(parts[max(0, at - 2) : at + 1])}\"?\n{text}",
               " ".join(parts[at + 1 : at + 3]) or "nothing")


def encode_plain(parts: list[tuple[str, float]], tokenizer: Any) -> tuple[list[int], list[float]]:
    """The tokens of plain parts, each with its weight."""
    ids, weights = [BOS], [0.0]
    for text, weight in parts:
        body = tokenizer.encode(text, add_special_tokens=False).ids
        ids += body
        weights += [weight] * len(body)
    return ids, weights


def probe(rng: random.Random, tokens: int, questions: int = 1) -> list[Message]:
    """The probe of sparse attention: `key: value` lines, direct questions, number values."""
    hard = [(k, str(rng.randint(1000, 9999))) for k, _ in
            pairs(rng, int((tokens - 30 - 21 * questions) / 14.2), True)]
    asked = rng.sample(hard, questions)
    text, out = layout(rng, hard, 0), []
    for i, (k, v) in enumerate(asked):
        ask = f"What is the value of {k}?"
        out += [f"Remember these pairs.\n{text}\n\n{ask}" if i == 0 else ask, v]
    return say(*out)
