"""What a running program tells a listener: pieces of text, values, the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Path = tuple[tuple[str, int, int], ...]
"""Which branch: (fork, its occurrence, branch number), outermost first; empty for the trunk."""


@dataclass(frozen=True)
class TextPiece:
    """More text of a gen; pieces are never taken back and never break a character."""

    name: str
    text: str
    path: Path = ()


@dataclass(frozen=True)
class PartialValue:
    """What of a gen's record, list or schema value is certain so far; it only ever grows."""

    name: str
    value: Any
    path: Path = ()


@dataclass(frozen=True)
class ValueBound:
    """A gen, select or fork has its value."""

    name: str
    value: Any
    path: Path = ()


@dataclass(frozen=True)
class Finished:
    """The program has ended; `result` is its `Result`."""

    result: Any


Event = TextPiece | PartialValue | ValueBound | Finished
Listener = Callable[[Event], None]


class Choice(str):
    """A selected option: a str that also knows each option's probability."""

    probs: dict[str, float]

    def __new__(cls, text: str, probs: dict[str, float]) -> Choice:
        """Make a choice."""
        choice = super().__new__(cls, text)
        choice.probs = probs
        return choice

    def __reduce__(self) -> tuple[Any, ...]:
        return Choice, (str(self), self.probs)


class Generated(str):
    """A generated text that also knows the log-probability of each of its tokens."""

    logprobs: list[float | None]

    def __new__(cls, text: str, logprobs: list[float | None]) -> Generated:
        """Make a generated text."""
        generated = super().__new__(cls, text)
        generated.logprobs = logprobs
        return generated

    def __reduce__(self) -> tuple[Any, ...]:
        return Generated, (str(self), self.logprobs)
