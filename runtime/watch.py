"""Watches one generation token by token: its constraint, its stop strings, its listener."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .constraint import Matcher
from .heal import HealMatcher
from .stops import (
    PatternScanner,
    Pieces,
    StopScanner,
    TokenBytes,
    canonical_ids,
    common_length,
)
from .table_matcher import TableMatcher


@dataclass(frozen=True)
class Finish:
    """The end of a generation: why, how many tokens stay, and what is appended after them."""

    reason: str
    keep: int
    tail: tuple[int, ...] = ()


def _scanner(stops: tuple[str, ...] | re.Pattern[str]) -> StopScanner | PatternScanner | None:
    if isinstance(stops, re.Pattern):
        return PatternScanner(stops.pattern)
    return StopScanner(stops) if any(stops) else None


class Watch:
    """What must be looked at on the host after each token of a gen; free text needs none."""

    def __init__(
        self,
        words: TokenBytes,
        matcher: Matcher | None = None,
        stops: tuple[str, ...] | re.Pattern[str] = (),
        listener: Callable[[str], None] | None = None,
        heal: str = "",
    ) -> None:
        self.matcher = matcher
        self._skip = self._healed = len(heal.encode())
        self._words = words
        self._scanner = _scanner(stops)
        self._pieces = Pieces() if listener else None
        self._listener = listener
        self._whole: list[bytes] = []
        plain = self._scanner is None and self._pieces is None
        self._table = matcher if plain and type(matcher) is TableMatcher else None
        self._stops: StopScanner | None = None
        if isinstance(self._scanner, StopScanner) and self._pieces is None:
            self._stops = self._scanner
        # What a constraint holds is text of a known form: its tokens are made canonical at the end.
        self._ids: list[int] | None = (
            [] if matcher and not isinstance(matcher, HealMatcher) else None
        )

    def passes(self, token: int) -> bool:
        """Take one token if nothing follows from it, at once; else return False and take none."""
        if self._skip:
            return False
        if self._stops is not None and self.matcher is None:
            whole = self._words[token]
            if not self._stops.passes(whole):
                return False
            self._whole.append(whole)
        elif self._table is None or not self._table.passes(token):
            return False
        if self._ids is not None:
            self._ids.append(token)
        return True

    def accept(self, token: int) -> Finish | None:
        """Take one token; return how the generation ends, if it does."""
        piece = whole = self._words[token]
        if self._skip:
            piece, self._skip = whole[self._skip :], max(0, self._skip - len(whole))
        at = None
        if self._scanner is not None:
            self._whole.append(whole)
            at = self._scanner.feed(piece)
        if self._ids is not None:
            self._ids.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        if self._pieces is not None:
            self._show(piece, at)
        if at is not None:
            return self._cut(at + self._healed)
        if self.matcher is not None and self.matcher.is_complete():
            return Finish("complete", -1)
        return None

    @property
    def needless(self) -> bool:
        """Whether nothing is left to look at."""
        return self.matcher is None and self._scanner is None and self._pieces is None

    def forced(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that the constraint forces now."""
        return self.matcher.forced()[:limit] if self.matcher is not None else []

    def settled(self, finish: Finish) -> Finish:
        """Return the end with the text's canonical tokens, where a constraint held it."""
        if self._ids is None:
            return finish
        ids = self._ids
        if finish.keep >= 0:
            ids = [*ids[: finish.keep], *finish.tail]
        canonical = canonical_ids(self._words, ids)
        if canonical == ids:
            return finish
        keep = common_length(self._ids, canonical)
        return Finish(finish.reason, keep, tuple(canonical[keep:]))

    def close(self) -> None:
        """Show what was held back; called when the generation ends without a stop string."""
        if self._pieces is not None and self._listener is not None:
            text = self._pieces.finish()
            if text:
                self._listener(text)

    def _show(self, piece: bytes, at: int | None) -> None:
        assert self._pieces is not None and self._listener is not None
        if at is None:
            text = self._pieces.feed(piece, self._scanner.held_back() if self._scanner else 0)
        else:
            assert self._scanner is not None
            text = self._pieces.feed(piece, self._scanner.size - at) + self._pieces.finish(
                self._scanner.size - at
            )
        if text:
            self._listener(text)

    def _cut(self, at: int) -> Finish:
        """Keep the whole tokens before byte `at`; encode anew what is left of the next."""
        keep, end = 0, 0
        while keep < len(self._whole) and end + len(self._whole[keep]) <= at:
            end += len(self._whole[keep])
            keep += 1
        rest = b"".join(self._whole[keep:])[: at - end].decode("utf-8", "replace")
        tail = tuple(self._words.tokenizer.encode(rest)) if rest else ()
        return Finish("stop", keep, tail)
