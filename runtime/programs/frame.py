"""What a running region knows: values, its place among forks, and the sequences it must free."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Operation, Value, walk
from ...ir.vocabulary import Part as Text
from ..memory.sequence import Sequence
from .events import Path
from .future_values import Later, Part, present


@dataclass(eq=False)
class Handle:
    """A kv value: the first `length` tokens of a sequence, then parts not yet encoded.

    No two texts of `pending` stand side by side. With `before` they follow the parts of that
    handle, the last of which goes on with the first, if both are texts. `settled` is what the
    handle became when its parts were encoded: all who have the value go on from there. `above` is
    at least what stands between its sequence and its parts: characters, and tokens.
    """

    sequence: Sequence
    length: int
    pending: tuple[Text, ...] = ()
    before: Handle | None = None
    settled: Handle | None = None
    above: int = 0
    joined: Handle | None = None
    """What `newest` found while nothing before it was settled."""

    def plus(self, pending: tuple[Text, ...]) -> Handle:
        """Return the handle with parts appended."""
        return Handle(self.sequence, self.length, pending, self, above=self.gathered)

    @property
    def gathered(self) -> int:
        """How many characters and tokens it has behind its sequence, at most."""
        return self.above + sum(
            [len(part) if isinstance(part, str) else 1 for part in self.pending]
        )

    def newest(self) -> Handle:
        """Return what the handle has become: tokens of a sequence, then parts."""
        if self.settled is None and self.before is None:
            return self
        handle, added, moved = self, [], False
        while True:
            if handle.settled is not None:
                handle, moved = handle.settled, True
            elif handle.before is not None:
                added.append(handle.pending)
                handle = handle.before
            else:
                break
        if not added:
            return handle
        if not moved and self.joined is not None and self.joined.settled is None:
            return self.joined
        pending = _joined((handle.pending, *reversed(added)))
        found = Handle(handle.sequence, handle.length, pending)
        self.joined = None if moved else found
        if self.before is not None:
            self.before.joined = None  # of a chain of texts one copy is kept
        return found


def _joined(several: Iterable[tuple[Text, ...]]) -> tuple[Text, ...]:
    """Return all parts, in none of which texts stand side by side, as one such tuple."""
    parts: list[Text] = []
    texts: list[str] = []
    for more in several:
        if not more:
            continue
        if isinstance(more[0], str):
            texts.append(more[0])
            more = more[1:]
            if not more:
                continue
        if texts:
            parts.append("".join(texts))
            texts = []
        parts += more
        if isinstance(last := parts[-1], str):
            parts.pop()
            texts.append(last)
    if texts:
        parts.append("".join(texts))
    return tuple(parts)


@dataclass
class Frame:
    """One branch of one instance (the trunk is a branch, too)."""

    row: int
    path: Path = ()
    values: dict[str, Any] = field(default_factory=dict)
    owned: dict[Sequence, None] = field(default_factory=dict)
    bound: dict[str, Any] = field(default_factory=dict)
    after: int = 0
    """Predicted time from this program's end to that of the outermost one."""
    borrows: bool = False
    """A while's condition only looks at the values that its body goes on with."""
    _seen: dict[str, int] = field(default_factory=dict)
    _bound_by: dict[str, int] = field(default_factory=dict)
    _issued: list[tuple[Later, Operation]] = field(default_factory=list)
    _out: list[Later] = field(default_factory=list)

    def get(self, value: Value) -> Any:
        """Return what an SSA value stands for: a `Later` or a part of one while it is missing."""
        return present(self.values[value.name])

    def bind(self, values: tuple[Value, ...], results: tuple[Any, ...]) -> None:
        """Let SSA values stand for results."""
        for value, result in zip(values, results, strict=True):
            self.values[value.name] = result

    def expect(self, operation: Operation, later: Later) -> None:
        """Let an operation's results stand for what a task will return, a tuple."""
        for index, value in enumerate(operation.results):
            self.values[value.name] = present(Part(later, index))
        self.under_way(operation, later)

    def under_way(self, operation: Operation, later: Later) -> None:
        """Take note of a task that runs an operation, until it has ended."""
        if not later.ready:
            if len(self._issued) > 16:
                self._issued = [entry for entry in self._issued if not entry[0].ready]
            self._issued.append((later, operation))

    def missing(self, of: Callable[[Operation], bool] | None = None) -> list[Later]:
        """Return what is still being computed, oldest first; of the operations that fit."""
        return [
            later
            for later, operation in self._issued
            if not later.ready and (of is None or of(operation))
        ]

    @property
    def idle(self) -> bool:
        """Whether nothing has been started here."""
        return not (self._issued or self._out)

    def set_out(self) -> Later:
        """Count an operation that has sequences of its own, until what is returned is settled."""
        gone = Later()
        self._out.append(gone)
        return gone

    def out(self) -> list[Later]:
        """Return those that still have sequences of their own, oldest first."""
        self._out = [gone for gone in self._out if not gone.ready]
        return self._out

    def users(self, kv: Value) -> list[Later]:
        """Return what is still being computed and reads a kv, or has it in its regions."""
        return self.missing(
            lambda operation: any(
                value.name == kv.name for inner in walk((operation,)) for value in inner.operands
            )
        )

    def tell(self, name: str, occurrence: int, value: Any) -> None:
        """Bind a name that the program gives; of several bindings the last in its text stays."""
        if occurrence >= self._bound_by.get(name, -1):
            self._bound_by[name] = occurrence
            self.bound[name] = value

    def occurrence(self, name: str) -> int:
        """Return how often the gen, select or fork `name` has run in this frame before."""
        before = self._seen.get(name, 0)
        self._seen[name] = before + 1
        return before

    def inner(
        self, name: str, occurrence: int, number: int, values: dict[str, Any] | None = None
    ) -> Frame:
        """Return the frame of a fork's branch: it sees the values, its changes stay in it."""
        path = (*self.path, (name, occurrence, number))
        return Frame(self.row, path, {} if values is None else dict(values), after=self.after)
