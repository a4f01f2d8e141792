"""Retrieval: key-value pairs and needles in filler, one question a fresh conversation.

The context is read densely once, as prefill is; the question and its answer run under the
attention that is judged, token by token as decoding does. An answer counts when every token of it,
its end included, is the most likely one after those before it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..ir.vocabulary import encode_parts
from .subject import ContextTooLong, Tested

Attention = Callable[[], Any]
"""Gives the attention to judge; called once a question."""

Encode = Callable[[str], list[int]]
Context = tuple[str, list[tuple[str, str]]]
"""A text that ends before the question, and its keys and values in order."""

FRAME, ROOM = 60, 96
"""Tokens kept for a question's frame, and slots kept for a question and its answer."""
_THINGS = ("door", "lamp", "river", "table", "garden", "window", "stone", "boat", "road", "letter")
_PLACES = ("behind the wall", "near the house", "under the tree", "by the sea", "on the hill")


@dataclass(frozen=True)
class Question:
    """One question on a context: token ids of both, and how many of the last are the answer."""

    shared: tuple[int, ...]
    rest: tuple[int, ...]
    answer: int


def pairs_context(rng: random.Random, tokens: int, encode: Encode) -> Context:
    """Return `key: value` lines of about so many tokens; some keys share a beginning."""
    each = _tokens_each(
        [f"{_key(rng)}: {rng.randint(1000, 9999)}" for _ in range(32)], encode, "\n"
    )
    keys: list[str] = []
    while len(keys) < max(8, int((tokens - FRAME) / each)):
        near = keys and rng.random() < 0.2
        keys.append(_key(rng, rng.choice(keys)[: rng.randint(2, 5)] if near else ""))
    table = [(key, str(rng.randint(1000, 9999))) for key in dict.fromkeys(keys)]
    text = "\n".join(f"{key}: {value}" for key, value in table)
    return f"Remember these pairs.\n{text}\n\n", table


def needle_context(rng: random.Random, tokens: int, encode: Encode) -> Context:
    """Return filler sentences of about so many tokens that hide eight codes."""
    table = [(_key(rng), str(rng.randint(1000, 9999))) for _ in range(8)]
    hidden = [f"The code of {key} is {value}." for key, value in table]
    each = _tokens_each([_filler(rng) for _ in range(32)], encode)
    room = tokens - FRAME - 8 * _tokens_each(hidden, encode)
    lines = [_filler(rng) for _ in range(max(16, int(room / each)))]
    for number, line in enumerate(hidden):
        lines.insert(int((number + rng.random()) * len(lines) / 8), line)
    return " ".join(lines) + "\n\n", table


def _key(rng: random.Random, begin: str = "") -> str:
    letters = string.ascii_lowercase + string.digits
    return begin + "".join(rng.choices(letters, k=8 - len(begin)))


def _filler(rng: random.Random) -> str:
    return f"The {rng.choice(_THINGS)} was {rng.choice(_PLACES)}."


def _tokens_each(lines: list[str], encode: Encode, between: str = " ") -> float:
    return len(encode(between.join(lines))) / len(lines)


KINDS = {
    "pairs": (pairs_context, "What is the value of {}?"),
    "needles": (needle_context, "What is the code of {}?"),
}


def questions(
    subject: Tested, kind: str, tokens: int, contexts: int, seed: int
) -> Iterator[list[Question]]:
    """Yield the eight questions of each context, spread over its length."""
    make, ask = KINDS[kind]
    rng = random.Random(f"{seed}:{kind}:{tokens}")
    encode, most = subject.checkpoint.tokenizer.encode, subject.config.context_length - ROOM
    for _ in range(contexts):
        lead, table = _fitting(partial(make, rng, encode=encode), tokens, encode, most - FRAME)
        asked = [table[int((i + rng.random()) * len(table) / 8)] for i in range(8)]
        chats = [_chat(subject, lead + ask.format(key), value) for key, value in asked]
        shared = _common([prompt for prompt, _ in chats])
        yield [
            Question(tuple(prompt[:shared]), tuple(prompt[shared:] + answer), len(answer))
            for prompt, answer in chats
        ]


def require_room(subject: Tested, lengths: Sequence[int]) -> None:
    """Raise ContextTooLong where contexts of such lengths leave no room for a question."""
    most = subject.config.context_length
    for tokens in lengths:
        if tokens + ROOM > most:
            raise ContextTooLong(tokens=tokens + ROOM, model=subject.checkpoint.name, context=most)


def _fitting(make: Callable[[int], Context], tokens: int, encode: Encode, most: int) -> Context:
    """Return a context of about so many tokens, and of `most` at most: some come out longer than
    they were asked for, and are made again, as long as shorter ones can be asked for."""
    while True:
        lead, table = make(tokens)
        over = len(encode(lead)) - most
        if over <= 0 or tokens <= over:
            return lead, table
        tokens -= over


def _chat(subject: Tested, text: str, value: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt up to its answer, and of the answer with its end."""
    tokenizer, chat = subject.checkpoint.tokenizer, subject.checkpoint.chat
    user, assistant = chat.frame((), "user"), chat.frame(("user",), "assistant")
    prompt = [*chat.start(), *user.prefix, text, *user.suffix, *assistant.prefix]
    end = encode_parts(tokenizer, assistant.suffix)[:1]
    return encode_parts(tokenizer, prompt), [*tokenizer.encode(value), *end]


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Return how many ids all rows begin with in common."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def judge(
    subject: Tested, attentions: dict[str, Attention], kind: str, tokens: int, contexts: int,
    seed: int = 2024,
) -> dict[str, list[bool]]:  # fmt: skip
    """Return for each attention whether each question was answered: the same questions for all."""
    right: dict[str, list[bool]] = {name: [] for name in attentions}
    for asked in questions(subject, kind, tokens, contexts, seed):
        subject.begin(asked[0].shared, room=ROOM)
        for question in asked:
            for name, attention in attentions.items():
                best = subject.follow(question.rest, attention()).argmax(-1).tolist()
                wanted = question.rest[-question.answer :]
                right[name].append(best[-question.answer - 1 : -1] == list(wanted))
    return right
