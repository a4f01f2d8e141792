"""What a client asks of a server, and what it is told: plain data, as it stands in HTTP's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from weft.ir.vocabulary import Part, Tokenizer, encode_parts

KINDS = GENERATE, SCORE, PREFILL = "generate", "score", "prefill"


@dataclass(frozen=True)
class Asked:
    """A whole prompt, and what is to be made of it.

    `kind`: `generate` text under `sampling` (fields of `Sampling`), a `constraint` (its kind and
    source), stop strings and a stop `pattern`; `score` the text `option` behind the prompt; or
    `prefill` it, computed for requests to come. The answer begins with `heal`, which was taken off
    the prompt and is not told. `name` and `row` are for messages.
    """

    kind: str
    parts: tuple[Part, ...]
    name: str
    row: int
    heal: str = ""
    option: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    constraint: tuple[str, str] | None = None
    stops: tuple[str, ...] = ()
    pattern: str = ""
    logprobs: bool = False

    @staticmethod
    def of(kind: str, fields: dict[str, Any]) -> Asked:
        """Return what JSON says; raises TypeError."""
        lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return Asked(kind=kind, **{**fields, **lists})


@dataclass(frozen=True)
class Encoded:
    """A prompt's tokens, and those of the option behind it."""

    prompt: Sequence[int]
    option: Sequence[int] = ()


@dataclass(frozen=True)
class Told:
    """The tokens that came, or none, and a log-probability for each that was asked for."""

    tokens: Sequence[int] = ()
    logprobs: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Said:
    """The same as a client gets it: text."""

    text: str = ""
    logprobs: list[float | None] = field(default_factory=list)


def encode(tokenizer: Tokenizer, asked: Asked) -> Encoded:
    """Tokenize what a client sent."""
    option = tokenizer.encode(asked.heal + asked.option) if asked.kind == SCORE else ()
    return Encoded(encode_parts(tokenizer, asked.parts), option)


def decode(tokenizer: Tokenizer, asked: Asked, told: Told) -> Said:
    """Return the text of what was told."""
    text = tokenizer.decode(told.tokens) if len(told.tokens) else ""
    return Said(text.removeprefix(asked.heal), told.logprobs)
