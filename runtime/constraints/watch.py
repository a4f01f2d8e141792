"""Watches one generation token by token: its constraint, its stop strings, its listener."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.vocabulary import common_length
from .heal import HealMatcher
from .matcher import BadConstraint, Matcher
from .stops import (
    PatternScanner,
    Pieces,
    StopScanner,
    TokenBytes,
    canonical_ids,
    same_text,
)
from .table_matcher import TableMatcher

if TYPE_CHECKING:
    from ..schedule.request import Request


@dataclass(frozen=True)
class Finish:
    """The end of a generation: why, how many tokens stay, and what is appended after them."""

    reason: str
    keep: int
    tail: tuple[int, ...] = ()


def take_tokens(
    requests: Sequence[Request], rows: Sequence[int], tokens: Sequence[int], over: Sequence[bool]
) -> list[int]:
    """Give the watches of some rows the tokens that were drawn, where nothing follows from them.

    Returns the places in `rows` of those that are over, and of those whose watch took nothing, as
    something does follow. What most tokens of a table need is done here, without calls: a step has
    many rows, and a call of Python takes longer than the look-up itself.
    """
    found: list[int] = []
    ending: list[tuple[Watch, tuple[int, ...]]] = []
    for at, row in enumerate(rows):
        watch = requests[row].watch
        if over[at]:
            found.append(at)
            if watch is not None and (sampling := requests[row].sampling) is not None:
                last = () if tokens[at] in sampling.ends else (tokens[at],)
                ending.append((watch, last))
            continue
        if watch is None:
            continue
        table, ids = watch.table, watch.ids
        if table is None or ids is None:
            if not watch.passes(tokens[at]):
                found.append(at)
            continue
        of, before, token = table.constraint, table.state, tokens[at]
        after, moves, classes = before, of.moves, of.classes
        for one in of.spelled[token]:
            after = moves[classes * after + one]
        if after in of.notable:
            of.turned[before] += 1
            found.append(at)
            continue
        of.passed[before] += 1
        table.state = after
        ids.append(token)
    if len(ending) > 1:
        spell_together(ending)
    return found


def spell_together(ending: Sequence[tuple[Watch, tuple[int, ...]]]) -> None:
    """Let watches that get their last tokens in one step know how their texts are spelled: new
    words of all of them are encoded together, as to begin with it is what takes long on a CPU."""
    asked: list[tuple[Watch, list[int], str]] = []
    for watch, last in ending:
        if watch.ids is None or watch._scanner is not None:
            continue
        rest = [*watch.ids[watch._sure :], *last]
        with suppress(UnicodeDecodeError):
            asked.append((watch, rest, b"".join([watch._words[id] for id in rest]).decode()))
    if len(asked) > 1:
        words = asked[0][0]._words
        spelled = words.spell_all([text for *_, text in asked])
        for (watch, rest, _), found in zip(asked, spelled, strict=True):
            watch._spelled = rest, same_text(words, rest, found)


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
        self._tables = matcher if plain and isinstance(matcher, TableMatcher) else None
        self.table = None if heal else self._tables
        """The matcher, where nothing but its tables is to be looked at after the next token."""
        self._stops: StopScanner | None = None
        if isinstance(self._scanner, StopScanner) and self._pieces is None:
            self._stops = self._scanner
        constrained = matcher is not None and not isinstance(matcher, HealMatcher)
        self.ids: list[int] | None = [] if constrained else None
        """What has come of a constraint's text: it is of a known form, and its tokens are made
        canonical at the end."""
        self._sure = 0
        """How many of these are canonical, whatever follows them."""
        self._spelled: tuple[list[int], list[int]] = [], []
        """What is not sure of the text's ids at its end, and these made canonical, where that has
        been looked at."""

    def passes(self, token: int) -> bool:
        """Take one token if it surely ends no stop string, at once; else return False and take
        none. What tables say of it `take_tokens` looks up."""
        if self._skip or self._stops is None or self.matcher is not None:
            return False
        whole = self._words[token]
        if not self._stops.passes(whole):
            return False
        self._whole.append(whole)
        return True

    def catch_up(self, tokens: Sequence[int]) -> None:
        """Take tokens of a table from which nothing follows: what its calm states have left."""
        assert self.table is not None and self.ids is not None
        self.table.state = self.table.constraint.walk(self.table.state, tokens)
        self.ids += tokens

    def accept(self, token: int) -> Finish | None:
        """Take one token; return how the generation ends, if it does."""
        piece = whole = self._words[token]
        if self._skip:
            piece, self._skip = whole[self._skip :], max(0, self._skip - len(whole))
            self.table = None if self._skip else self._tables
        at = None
        if self._scanner is not None:
            self._whole.append(whole)
            at = self._scanner.feed(piece)
        if self.ids is not None:
            self.ids.append(token)
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
    def problem(self) -> BadConstraint | None:
        """What has kept the constraint from being followed to the end, if anything has."""
        return getattr(self.matcher, "problem", None)

    @property
    def needless(self) -> bool:
        """Whether nothing is left to look at."""
        return self.matcher is None and self._scanner is None and self._pieces is None

    def forced(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that the constraint forces now."""
        return self.matcher.forced()[:limit] if self.matcher is not None else []

    def take_forced(self, limit: int) -> tuple[list[int], Finish | None]:
        """Take at most `limit` tokens that the constraint forces now; return them, and how the
        generation ends, if it does."""
        tokens = self.forced(limit)
        table = self.table
        if table is not None and self.ids is not None and tokens:
            table.state = table.constraint.run(table.state, len(tokens))
            self.ids += tokens
            return tokens, Finish("complete", -1) if table.is_complete() else None
        for number, token in enumerate(tokens, 1):
            finish = self.accept(token)
            if finish is not None:
                return tokens[:number], finish
        return tokens, None

    def foresee(self, whole: bool = False) -> bool:
        """Make sure of what has come while more is on its way, so that little is left to do for
        `settled`; with `whole`, say whether all of it is canonical as it is, and no stop may cut
        it. Else it is looked at up to where its text is split whatever follows."""
        if self.ids is None or self._scanner is not None:
            return False
        words, rest = self._words, self.ids[self._sure :]
        pieces = [words[id] for id in rest]
        try:
            text = b"".join(pieces).decode()
        except UnicodeDecodeError:
            return False
        cut = words.last_cut(text)
        if not (cut or whole):
            return False
        behind, count = len(text[cut:].encode()), len(rest)
        while behind > 0:
            count -= 1
            behind -= len(pieces[count])
        found = words.spell(text if whole else text[:cut]) if text else rest
        if cut and not behind and found[:count] == rest[:count]:
            self._sure += count
        return whole and found == rest

    def settled(self, finish: Finish) -> Finish:
        """Return the end with the text's canonical tokens, where a constraint held it."""
        if self.ids is None:
            return finish
        ids, sure = self.ids, self._sure
        if finish.keep >= 0:
            ids, sure = [*ids[: finish.keep], *finish.tail], 0
        rest = ids[sure:]
        before, canonical = self._spelled
        if before != rest:
            canonical = canonical_ids(self._words, rest, self._words.spell)
        if canonical == rest:
            return finish
        canonical = ids[:sure] + canonical
        keep = common_length(self.ids, canonical)
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
