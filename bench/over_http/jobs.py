"""What the engine's process asks of the clients' process, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..contest.asked import Asked
from ..contest.data import Row
from ..contest.driver import Answer

BEGUN = "begun"
"""What the clients say when their clock starts."""


@dataclass(frozen=True)
class Job:
    """A run to make: a program, its rows by number, and how many are at work at once."""

    path: Path
    program: str | None
    model: str
    seed: int
    rows: dict[int, Row]
    clients: int


@dataclass(frozen=True)
class Volley:
    """The same request `count` times, `clients` at once."""

    asked: Asked
    count: int
    clients: int


@dataclass(frozen=True)
class Done:
    """What came of a run: seconds from the first request to the last answer, and the answers."""

    seconds: float
    answers: list[Answer]
