"""Rows held to constraints on a device that runs ahead: states and masks that never leave it.

Automata of all constraints lie side by side on the device. Before a step's draw a kernel moves each
row by the token just drawn and writes its mask, so that the host need not have seen that token. The
host follows, a step late: a row that turns out to be forced, or at its end, has then been computed
once in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..constraints.heal import HealMatcher
from ..constraints.matcher import Matcher
from ..constraints.stops import TokenBytes
from ..constraints.table_matcher import TableConstraint, TableMatcher
from ..devices.staging import Carry, Layout, Staging
from .batch import Batch
from .request import Request

MOST_BYTES = 256 << 20
"""What masks may take on the device; constraints beyond are worked out on the host."""

VAIN = 0.15
"""Rows computed in vain, of all, for which a step still begins ahead: about what a device waits
for its host otherwise, of a step (measured on an H200, 8 B: 0.6 of 4.2 ms)."""

MIXED = 0.03
"""Steps of rows that a step with chunks takes longer, for each row that leaves the batch: where it
is replayed, its lists are planned anew, and several rows leave together. Of 64 rows of records on
an H200, 8 B, a token took 1.22 of a free one's time at 0.5, 1.16 at 0.1 and 1.10 at 0.03."""

WIDE = 8
"""Rows of a batch in which what is forced is mostly drawn."""

Several = frozenset[TableConstraint]

_NOBODY: Several = frozenset()

FREE = 0
"""The state of text that no constraint holds."""


class Held(Protocol):
    """What a device with constraints of its own offers an engine."""

    def take(self, matchers: Iterable[Matcher]) -> None:
        """Have the constraints of a program on the device before it runs."""
        ...

    def follows(self, batch: Batch) -> bool:
        """Say whether the next step may begin before the draw of the last one is known."""
        ...

    def stays(self, batch: Batch, request: Request, forced: int) -> bool:
        """Say whether a row draws so many forced tokens one by one, by masks that allow one each,
        in place of leaving the batch to have them computed at once."""
        ...

    def begin(self, batch: Batch, source: np.ndarray | None, running: int) -> bool:
        """Prepare the masks of a packed step; return whether none need come from the host."""
        ...


class StateTables:
    """Automata on a device, as `passes.tile.rows.constrain` takes them; they grow as constraints
    come."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._bases: dict[int | bytes, int | None] = {}
        self._kept: list[Any] = []  # so that ids stay their own
        self.arrays: dict[str, Tensor] = {}
        self.refused = False
        """Whether some constraint found no room."""
        moves, mask = np.zeros((1, 256), np.int32), np.full((1, -(-vocab_size // 32)), -1, np.int32)
        one = np.zeros(1, np.int32)
        self._grow(moves=moves, entry=one, most=one, masks_of=one, masks=mask)

    def place(self, matcher: Matcher | None) -> int | None:
        """Return the state of a matcher among all; None where it has none here."""
        if matcher is None:
            return FREE
        if type(matcher) is TableMatcher:
            of = matcher.constraint
            key = id(of.table)
            base = self._bases[key] if key in self._bases else self._add(of)
            return None if base is None else base + matcher.state
        if type(matcher) is HealMatcher:
            return FREE if matcher.idle else self._healing(matcher)
        return None

    def scalars(self) -> tuple[int, int, int, int]:
        """Return how many states, entries, masks and bytes of words there are."""
        names = ("moves", "masks_of", "masks", "bytes")
        states, entries, masks, letters = (len(self.arrays[name]) for name in names)
        return states, entries, masks, letters

    def _add(self, of: TableConstraint) -> int | None:
        """Take a constraint's table; return its first state's place, or None if it is too much."""
        if self.arrays["masks"].nbytes + of.masks.nbytes > MOST_BYTES:
            self._kept.append(of.table)
            self._bases[id(of.table)] = None
            self.refused = True
            return None
        self._spell(of.words)
        base, entries, masks = (len(self.arrays[name]) for name in ("moves", "masks_of", "masks"))
        moves = of.table.moves[:, of.table.classes].astype(np.int32)
        numbers = np.asarray(of.numbers).astype(np.int32)
        states = len(moves)
        first = np.arange(states, dtype=np.int32) * (of.most + 1) + entries
        self._grow(moves=moves + base, entry=first, most=np.full(states, of.most, np.int32),
                   masks_of=numbers + masks, masks=of.masks)  # fmt: skip
        self._kept.append(of.table)
        self._bases[id(of.table)] = base
        return base

    def _healing(self, matcher: HealMatcher) -> int | None:
        """Return the state before the space that healed text begins with."""
        begin, mask = matcher.begins
        if begin in self._bases or len(begin) > 1:
            return self._bases.get(begin)
        self._spell(matcher.words)
        base, entries, masks = (len(self.arrays[name]) for name in ("moves", "masks_of", "masks"))
        one = np.ones(1, np.int32)
        self._grow(moves=np.zeros((1, 256), np.int32), entry=one * entries, most=one * 0,
                   masks_of=one * masks, masks=mask[None])  # fmt: skip
        self._bases[begin] = base
        return base

    def _spell(self, words: TokenBytes) -> None:
        """Take the words' bytes: a model has one vocabulary."""
        if "bytes" in self.arrays:
            return
        size = min(words.tokenizer.size, self._vocab_size)
        spelled = [words[id] for id in range(size)] + [b""] * (self._vocab_size - size)
        starts = np.cumsum([0, *map(len, spelled)]).astype(np.int32)
        letters = np.frombuffer(b"".join(spelled) + b"\0", np.uint8).astype(np.int32)
        self._grow(spelled=starts, bytes=letters)

    def _grow(self, **more: np.ndarray) -> None:
        for name, array in more.items():
            new = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
            known = self.arrays.get(name)
            self.arrays[name] = new if known is None else torch.cat([known, new])


class HeldRows:
    """The rows of a batch on a device: their states after the last draw, and their masks.

    `drawn` [B] are the tokens of the last draw, `allowed` [B, V / 32] the masks that the next one
    reads: all bits, except where `begin` has held a row.
    """

    def __init__(
        self, vocab_size: int, drawn: Tensor, allowed: Tensor, launch: Callable[..., Any],
        carry: Carry | None = None,
    ) -> None:  # fmt: skip
        device, rows = allowed.device, len(allowed)
        self._vocab_size = vocab_size
        self.tables = StateTables(vocab_size, device)
        self._drawn, self._allowed, self._launch = drawn, allowed, launch
        self._states = [torch.zeros(rows, dtype=torch.int32, device=device) for _ in range(2)]
        self._layout = Layout.of([("source", rows), ("start", rows), ("left", rows)])
        self._staging = Staging(self._layout.end, device, carry)
        self._views: Mapping[str, Tensor] = self._layout.views(self._staging.device)
        self._masked = 0
        self._known = False
        self._seen: tuple[Batch | None, int] = None, 0
        self._rows = 0
        self._of_all = self._only = _NOBODY

    def take(self, matchers: Iterable[Matcher]) -> None:
        """Have the constraints of a program on the device before it runs.

        Where they find no room, those of programs before go; they come again when they are used.
        """
        asked = list(matchers)
        if None in [self.tables.place(matcher) for matcher in asked] and self.tables.refused:
            self.tables = StateTables(self._vocab_size, self._allowed.device)
            self._known = False
            for matcher in asked:
                self.tables.place(matcher)

    def follows(self, batch: Batch) -> bool:
        """Say whether the next step may begin before the draw of the last one is known.

        Not where many rows are likely to be forced out of the batch, or to end, by the token on its
        way: of a wide batch few are.
        """
        if not self._known or batch.size >= WIDE:
            return self._known
        vain = 0.0
        for request in batch.requests:
            if request.watch is not None:
                matcher = request.watch.matcher
                if type(matcher) is TableMatcher:
                    vain += matcher.constraint.chance(matcher.state)
        return vain <= VAIN * batch.size

    def stays(self, batch: Batch, request: Request, forced: int) -> bool:
        """Say whether a row draws so many forced tokens one by one, by masks that allow one each.

        Computed at once they make a step of chunks, which takes `MIXED` steps more, for all rows.
        """
        return self._known and not request.logprobs and forced - 1 < MIXED * batch.size

    def only(self, drawn: int) -> Several:
        """Return the constraints of a step that has just begun, if they hold every row of it and so
        many are drawn; else none. It is asked once."""
        found, self._only = self._only, _NOBODY
        return found if drawn == self._rows else _NOBODY

    def begin(self, batch: Batch, source: np.ndarray | None, running: int) -> bool:
        """Prepare the masks of a packed step; return whether none need come from the host.

        `source` [T] says of the first `running` rows which row of the last draw each was, if that
        is not known on the host.
        """
        self._known = bool(batch.constrained) and self._hold(batch, source, running)
        self._only = self._holding(batch) if self._known else _NOBODY
        if not self._known and self._masked:
            self._allowed[: self._masked].fill_(-1)
            self._masked = 0
        return self._known

    def _holding(self, batch: Batch) -> Several:
        """Return the constraints of all rows; none where a row is free, or wants log-probabilities:
        these are over all words."""
        state = batch, batch.changes
        if state != self._seen:
            found: set[TableConstraint] = set()
            for request in batch.requests:
                matcher = None if request.watch is None else request.watch.matcher
                if type(matcher) is not TableMatcher or request.logprobs:
                    found.clear()
                    break
                found.add(matcher.constraint)
            self._seen, self._of_all, self._rows = state, frozenset(found), batch.size
        return self._of_all

    def _hold(self, batch: Batch, source: np.ndarray | None, running: int) -> bool:
        size, place = batch.size, self.tables.place
        starts = []
        for request in batch.requests:
            start = FREE if request.watch is None else place(request.watch.matcher)
            if start is None:
                return False
            starts.append(start)
        buffer = self._staging.open()
        at = {name: first for name, (first, _) in self._layout.places.items()}
        start, left = (buffer[at[name] : at[name] + size] for name in ("start", "left"))
        start[:] = starts
        left[:] = batch.limit[:size] - batch.produced[:size]
        sources = buffer[at["source"] : at["source"] + size]
        sources[:] = -1
        if source is not None:
            sources[:running] = np.where(start[:running] == FREE, -1, source[:running])
            left[:running] -= 1
        self._staging.send(self._layout.end)
        states, entries, masks, letters = self.tables.scalars()
        arrays, (before, after) = self.tables.arrays, self._states
        self._launch(
            size, len(self._drawn), states, entries, masks, letters, self._views["source"],
            self._views["start"], self._views["left"], self._drawn, before, arrays["spelled"],
            arrays["bytes"], arrays["moves"], arrays["entry"], arrays["most"], arrays["masks_of"],
            arrays["masks"], after, self._allowed,
        )  # fmt: skip
        self._states = [after, before]
        self._masked = max(self._masked, size)
        return True
