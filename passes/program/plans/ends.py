"""Ends of tokens that a program's calls make, and what is said of those that may cut a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ....ir.source import Span
from ....ir.vocabulary import split_heal
from ...manager import Context
from .boundaries import Boundaries, Side

if TYPE_CHECKING:
    from .segments import Piece

LONG = 64
"""Characters of a text that are kept of it."""

Loop = tuple[int, int]
"""A loop of a program, and one of the streams that it carries."""


@dataclass(frozen=True)
class End:
    """What stands before a text or a call: what it is called, and how it may end.

    Where it is `open`, no token has ended yet: a call that follows ends one, a text goes on. With
    `loop`, it is what the loop's rounds end with, and what they left open `what` has ended.
    """

    what: str
    side: Side = Side()
    open: bool = False
    loop: Loop | None = None

    def closed(self, by: str) -> End:
        """Return the end where something has ended a token, if nothing had."""
        if self.open or (self.loop is not None and not self.what):
            return replace(self, what=by, open=False)
        return self


def beginning(pieces: Sequence[Piece]) -> Side:
    """Return how pieces begin that begin with no token."""
    texts: list[str] = []
    for piece in pieces:
        if not isinstance(piece, str):
            break
        texts.append(piece)
    return Side(("".join(texts)[:LONG],)) if texts else Side()


def ending(pieces: Sequence[Piece]) -> tuple[End, ...]:
    """Return what some pieces end with; nothing where it is a token."""
    texts: list[str] = []
    for piece in reversed(pieces):
        if not isinstance(piece, str):
            break
        texts.append(piece)
    if texts:
        return (End("the text", Side(("".join(reversed(texts))[-LONG:],)), open=True),)
    return () if isinstance(pieces[-1], int) else (End("a value", open=True),)


@dataclass
class Ends:
    """Gathers what stands behind ends while a program is lowered; then says what may join there."""

    context: Context
    met: list[tuple[tuple[End, ...], str, Side, Span | None]] = field(default_factory=list)
    rounds: dict[Loop, tuple[End, ...]] = field(default_factory=dict)

    def note(self, ends: tuple[End, ...], what: str, side: Side, span: Span | None) -> None:
        """Note a text (`what` is empty) or a call behind ends."""
        if ends:
            self.met.append((ends, what, side, span))

    def tell(self) -> None:
        """Remark on each end behind which something may share a token with what stands before."""
        if not self.met or self.context.tokenizer is None:
            return
        boundaries = Boundaries(self.context.tokenizer)
        for ends, what, side, span in self.met:
            for end in self._all(ends):
                left, right = end.side, side
                if end.open and not what:
                    continue
                if end.open:
                    left, right = _healed(left, right)
                found = boundaries.joined(left, right)
                if found is not None:
                    said = f"{what or 'text'} begins a token behind {end.what}: in one text "
                    said += f"{found[0]!r} and {found[1]!r} would share one"
                    self.context.left(said, span)

    def _all(self, ends: Iterable[End]) -> dict[End, None]:
        """Return the ends, with those of its rounds in place of a loop."""
        found: dict[End, None] = {}
        seen: set[End] = set()
        left = [*ends][::-1]
        while left:
            end = left.pop()
            if end.loop is None:
                found[end] = None
            elif end not in seen:
                seen.add(end)
                rounds = self.rounds.get(end.loop, ())[::-1]
                left += [each.closed(end.what) for each in rounds] if end.what else rounds
        return found


def _healed(left: Side, right: Side) -> tuple[Side, Side]:
    """Give a text's last space to the call behind it."""
    (text,) = left.texts or ("",)
    kept, heal = split_heal((text,))
    if not heal:
        return left, right
    texts = right.texts and tuple(heal + option for option in right.texts)
    return Side(tuple(map(str, kept))), replace(right, texts=texts, start=heal)
