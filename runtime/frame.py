"""What a running region knows: values, its place among forks, and the sequences it must free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..ir.core import Value
from ..ir.vocabulary import Part
from .events import Path
from .sequence import Sequence


@dataclass(frozen=True)
class Handle:
    """A kv value: the first `length` tokens of a sequence, then parts not yet encoded."""

    sequence: Sequence
    length: int
    pending: tuple[Part, ...] = ()


@dataclass
class Frame:
    """One branch of one instance (the trunk is a branch, too)."""

    row: int
    path: Path = ()
    values: dict[str, Any] = field(default_factory=dict)
    owned: dict[Sequence, None] = field(default_factory=dict)
    bound: dict[str, Any] = field(default_factory=dict)
    borrows: bool = False
    """A while's condition only looks at the values that its body goes on with."""
    _seen: Counter[str] = field(default_factory=Counter)

    def get(self, value: Value) -> Any:
        """Return what an SSA value stands for."""
        return self.values[value.name]

    def bind(self, values: tuple[Value, ...], results: tuple[Any, ...]) -> None:
        """Let SSA values stand for results."""
        for value, result in zip(values, results, strict=True):
            self.values[value.name] = result

    def occurrence(self, name: str) -> int:
        """Return how often the gen, select or fork `name` has run in this frame before."""
        self._seen[name] += 1
        return self._seen[name] - 1

    def branch(self, name: str, occurrence: int, number: int) -> Frame:
        """Return the frame of a fork's branch: it sees the values, its changes stay in it."""
        return Frame(self.row, (*self.path, (name, occurrence, number)), dict(self.values))
