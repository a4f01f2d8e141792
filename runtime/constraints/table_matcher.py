"""A Matcher over tables: a byte walk to accept, a mask copied where it is another than before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...ir.constraints.automaton import START
from ...ir.constraints.token_masks import WORTH
from ...ir.constraints.token_table import SPACE, TokenTable
from ...ir.vocabulary import Tokenizer
from .calm_states import calm_tokens
from .stops import TokenBytes

if TYPE_CHECKING:
    from ..schedule.batch import Batch


class Spelled(dict[int, bytes]):
    """The classes of each token's bytes, asked for once."""

    def __init__(self, words: TokenBytes, classes: np.ndarray) -> None:
        super().__init__()
        self._words, self._classes = words, classes.astype(np.uint8).tobytes()

    def __missing__(self, id: int) -> bytes:
        known = self[id] = self._words[id].translate(self._classes)
        return known


class TableConstraint:
    """A token table made ready for a model whose logits have `vocab_size` columns."""

    def __init__(self, table: TokenTable, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.table = table
        self.words = TokenBytes(tokenizer)
        width = -(-vocab_size // 32)
        self.masks = np.zeros((len(table.masks), width), np.int32)
        shared = min(width, table.masks.shape[1])
        self.masks[:, :shared] = table.masks[:, :shared]
        self.most = table.mask_of.shape[1] - 1
        counts = (int(np.unpackbits(mask.view(np.uint8)).sum()) for mask in self.masks)
        wide = (count > WORTH * vocab_size for count in counts)
        self.entries: list[tuple[np.ndarray, bool]] = list(zip(self.masks, wide, strict=True))
        """Masks, each with whether it allows so many words that leaving out others pays nothing."""
        self.numbers: memoryview[int] = np.ascontiguousarray(table.mask_of).reshape(-1).data
        self.spelled = Spelled(self.words, table.classes)
        self.classes = table.moves.shape[1]
        self.moves: memoryview[int] = np.ascontiguousarray(table.moves, np.uint16).reshape(-1).data
        """The next state at classes * state + class: by classes of bytes it stays in the caches."""
        counts = np.diff(table.forced_at)
        self.forced = {
            int(state): tuple(table.forced_tokens(int(state))) for state in np.flatnonzero(counts)
        }
        ending = table.accepting & ~table.moves.any(1)
        self.endings = frozenset(np.flatnonzero(ending).tolist())
        self.notable = self.endings | self.forced.keys()
        """States in which a text ends or goes on in one way only."""
        self.calm = calm_tokens(table, self._noted(), self.masks, self._sizes)
        """For each state the tokens that may follow and change nothing; None: none anywhere."""
        self.passed, self.turned = [1.5] * len(table.moves), [0.5] * len(table.moves)
        """How often a token after a state has led to no notable one, or to one."""
        self._runs: dict[tuple[int, int], int] = {}

    def mask(self, state: int, remaining: int) -> np.ndarray:
        """Return the mask [W] of a state that `remaining` tokens may follow."""
        most = self.most
        at = remaining if remaining < most else most
        return self.entries[self.numbers[state * (most + 1) + at]][0]

    @cached_property
    def allowed(self) -> np.ndarray:
        """The words [W] that some mask allows, as one of them."""
        return np.bitwise_or.reduce(self.masks)

    def chance(self, state: int) -> float:
        """Return how likely a token after a state leads to a notable one: a quarter at first."""
        turned = self.turned[state]
        return turned / (turned + self.passed[state])

    def _noted(self) -> np.ndarray:
        found = np.zeros(len(self.table.moves), bool)
        found[list(self.notable)] = True
        return found

    def _sizes(self) -> np.ndarray:
        return np.array([len(self.words[id]) for id in range(self.words.tokenizer.size)])

    def walk(self, state: int, tokens: Sequence[int]) -> int:
        """Return the state after some tokens, each of which the masks allow."""
        moves, classes, spelled = self.moves, self.classes, self.spelled
        for token in tokens:
            for one in spelled[token]:
                state = moves[classes * state + one]
        return state

    def run(self, state: int, count: int) -> int:
        """Return the state after the first `count` tokens that a state forces."""
        known = self._runs.get((state, count))
        if known is None:
            known = self._runs[state, count] = self.walk(state, self.forced[state][:count])
        return known

    def start(self, heal: str = "", opening: str = "") -> TableMatcher:
        """Return a matcher of texts after a space or nothing, or of what follows `opening`."""
        assert heal in ("", SPACE)
        start = self.table.healed if heal else START
        return TableMatcher(self, self.table.walk(opening.encode(), start))


class TableMatcher:
    """The state of one generation held to a table: a number."""

    __slots__ = ("constraint", "state")
    idle = False

    def __init__(self, constraint: TableConstraint, state: int) -> None:
        self.constraint = constraint
        self.state = state

    def fill(self, masks: np.ndarray, row: int, remaining: int | None = None) -> None:
        """Write the bitmask into `masks[row]`; within `remaining` tokens the text must end."""
        of = self.constraint
        masks[row] = of.mask(self.state, of.most if remaining is None else remaining)

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allows."""
        self.state = self.constraint.walk(self.state, (token,))

    def forced(self) -> list[int]:
        """Return the tokens that must come next."""
        return list(self.constraint.forced.get(self.state, ()))

    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self.state in self.constraint.endings

    def fork(self) -> TableMatcher:
        """Return an independent copy."""
        return TableMatcher(self.constraint, self.state)


def fill_masks(batch: Batch) -> bool:
    """Write the masks of all constrained rows; a row that shows its mask already is left alone.

    A text inside a string or a pattern's repeat has the same mask for many tokens; in calm states
    it is not even asked whether it has. Returns whether some row is known to be allowed so many
    words that the others are not worth leaving out.
    """
    if batch.is_quiet():
        return batch.quiet_wide
    size, requests, shown = batch.size, batch.requests, batch.shown
    produced = batch.produced[:size]
    (rows,) = (batch.calm[:size] < produced).nonzero()
    any_wide = bool(batch.wide[:size].any())
    if not len(rows):
        return any_wide
    batch.filled = True
    left, calm = (batch.limit[:size] - produced).tolist(), batch.may_calm
    for row in rows.tolist():
        watch = requests[row].watch
        if watch is None or watch.matcher is None:
            continue
        matcher = watch.matcher
        if not isinstance(matcher, TableMatcher):
            matcher.fill(batch.masks, row)
            batch.changes += 1
            calm = False
            continue
        of, at = matcher.constraint, left[row]
        most = of.most  # as `mask` has it, without a call for each row and step
        entry = matcher.state * (most + 1) + (at if at < most else most)
        mask, wide = of.entries[of.numbers[entry]]
        any_wide = any_wide or wide
        if shown[row] is not mask:
            batch.masks[row] = shown[row] = mask
            batch.changes += 1
        if of.calm is not None and matcher is watch.table and batch.may_calm:
            # While more tokens may come than a state tells apart, the mask is the same.
            tokens = max(0, min(of.calm[matcher.state], at - most))
            batch.calm[row], batch.wide[row] = produced[row] + tokens, wide and tokens > 0
            calm = calm and tokens > 0
        else:
            calm = False
    if calm:
        batch.be_quiet()
    return any_wide
