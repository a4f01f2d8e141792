"""A constraint compiled for a vocabulary: per state a token mask, forced tokens, a distance.

`distance[state]` counts tokens that complete the text: where tokens are forced, those and what
follows; elsewhere the fewest that spell the shortest completion in bytes (of equally short ones,
the least). From a state at a distance of at most r, some allowed token leads to one of at most
r - 1. So a generation that may have r more tokens allows only those tokens that lead to a distance
of at most r - 1, and its text is whole when the budget ends, if it ever could be.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..vocabulary import Tokenizer
from .automaton import (
    DEAD,
    START,
    Automaton,
    Expression,
    NotRegular,
    automaton,
    longest_bytes,
    shortest_bytes,
)
from .forced_tokens import Forcing
from .regex import regex
from .schema import schema
from .stops import until_stop
from .token_masks import UNREACHED, classes_of, packed, token_distances
from .token_trie import TokenTrie

VERSION = "4"
"""Part of a stored table's name: raised when tables mean something else."""

MAX_BYTES = 64 << 20
"""Bytes of masks above which a constraint is not compiled to a table."""

MAX_WALKS = 1 << 29
"""States times tokens above which a constraint is not compiled to a table."""

SPACE = " "


@dataclass(frozen=True, eq=False)
class TokenTable:
    """An automaton over a vocabulary; `healed` is the start of texts with a space before them.

    `mask_of` [S, R + 1] is the number of the mask for a state and the tokens that may still come
    (R stands for more, too); `masks` [M, W] holds bit i of word w for token 32 w + i;
    `forced` holds the tokens of state s from `forced_at[s]` to `forced_at[s + 1]`.
    """

    classes: np.ndarray
    moves: np.ndarray
    accepting: np.ndarray
    distance: np.ndarray
    masks: np.ndarray
    mask_of: np.ndarray
    forced: np.ndarray
    forced_at: np.ndarray

    @property
    def healed(self) -> int:
        """The state before the space."""
        return len(self.moves) - 1

    @property
    def states(self) -> int:
        """The states of the minimal automaton: the dead one and `healed` do not count."""
        return len(self.moves) - 2

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def forced_tokens(self, state: int) -> list[int]:
        """Return the tokens that must follow a state."""
        return self.forced[self.forced_at[state] : self.forced_at[state + 1]].tolist()

    def walk(self, data: bytes, state: int = START) -> int:
        """Return the state after some bytes."""
        return Automaton(self.classes, self.moves, self.accepting).walk(data, state)

    @property
    def longest(self) -> int | None:
        """The bytes of the longest text, or None where nothing bounds them."""
        longest = longest_bytes(Automaton(self.classes, self.moves, self.accepting))[START]
        return None if longest < 0 else longest

    def ends(self, state: int) -> bool:
        """Whether a text may end in a state, and must."""
        return bool(self.accepting[state]) and not self.moves[state].any()

    def to_bytes(self) -> bytes:
        """Return the table as an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> TokenTable:
        """Return the table of an .npz file; raises ValueError where it is none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                return TokenTable(
                    **{field.name: stored[field.name] for field in fields(TokenTable)}
                )
        except Exception as error:  # zipfile, zlib and numpy each raise their own
            raise ValueError(f"not a token table: {error}") from None


def expression_of(kind: str, source: Any) -> Expression:
    """Return the expression of a regex or a JSON schema; raises NotRegular."""
    if kind == "regex":
        return regex(source)
    if kind == "json":
        return schema(source)
    raise NotRegular("a context-free grammar is not regular")


def token_table(
    kind: str, source: Any, tokenizer: Tokenizer, trie: TokenTrie, stops: tuple[str, ...] = ()
) -> TokenTable:
    """Compile a constraint, which stop strings may end, for a vocabulary; raises NotRegular."""
    try:
        expression = expression_of(kind, source)
        given = until_stop(expression, stops) if stops else automaton(expression)
    except RecursionError:
        raise NotRegular("it is nested too deeply for a table") from None
    return _Builder(given, tokenizer, trie).table()


class _Builder:
    def __init__(self, given: Automaton, tokenizer: Tokenizer, trie: TokenTrie) -> None:
        self._given = _after_space(given)
        self._trie = trie
        self._ends = [i for i in tokenizer.end_ids if i < len(trie.words)]
        self._forcing = Forcing(self._given, tokenizer, trie)
        self._masks: dict[bytes, int] = {}

    def table(self) -> TokenTable:
        given = self._given
        forced = [self._forcing.tokens(state) for state in range(given.states)]
        distance = self._distances(forced)
        mask_of = self._mask_numbers(distance, np.array([ids[0] if ids else -1 for ids in forced]))
        width = -(-len(self._trie.words) // 32)
        return TokenTable(
            classes=given.classes, moves=given.moves.astype(np.uint16), accepting=given.accepting,
            distance=distance,
            masks=np.frombuffer(b"".join(self._masks), np.int32).reshape(-1, width),
            mask_of=mask_of, forced=np.array(sum(forced, []), np.int32),
            forced_at=np.cumsum([0, *map(len, forced)]).astype(np.int32),
        )  # fmt: skip

    def _distances(self, forced: list[list[int]]) -> np.ndarray:
        """Return `distance` [S]; what ends sooner is worked out first."""
        length = shortest_bytes(self._given)
        following = _next_bytes(self._given, length)
        found = np.full(len(length), UNREACHED - 1, np.int64)
        for state in np.argsort(length, kind="stable").tolist():
            if state == DEAD or not length[state]:
                found[state] = 0 if state != DEAD else UNREACHED
            elif forced[state]:
                data = b"".join(self._trie.words[i] for i in forced[state])
                found[state] = len(forced[state]) + found[self._given.walk(data, state)]
            else:
                found[state] = 1 + self._nearest(state, following, found)
        return np.minimum(found, UNREACHED).astype(np.uint16)

    def _nearest(self, state: int, following: Sequence[tuple[int, int]], found: np.ndarray) -> int:
        """Return the least distance after a token that begins the shortest completion."""
        word, best = b"", UNREACHED - 1
        while following[state][0] >= 0:
            byte, state = following[state]
            word += bytes((byte,))
            if word in self._trie.ids:
                best = min(best, int(found[state]))
            if word not in self._trie.prefixes:
                break
        return best

    def _mask_numbers(self, distance: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return `mask_of`; `first` [S] is the first forced token of each state, or -1."""
        labels = classes_of(self._given, [distance, first], self._trie.longest)
        _, firsts, numbers = np.unique(labels, return_index=True, return_inverse=True)
        firsts = np.asarray(firsts)
        walks = len(firsts) * len(self._trie.words)
        if walks > MAX_WALKS:
            raise NotRegular(f"{len(firsts)} kinds of states are too many for this vocabulary")
        levels: dict[int, list[tuple[int, int]]] = {}
        for state, after in token_distances(self._given, firsts, distance, self._trie):
            levels[state] = self._levels(state, after, int(first[state]))
        most = max((level[-1][0] for level in levels.values() if level), default=0)
        rows = np.zeros((len(firsts), most + 1), np.uint16)
        for row, state in enumerate(firsts.tolist()):
            _fill(rows[row], levels[state])
        return rows[numbers.reshape(-1)]

    def _levels(self, state: int, after: np.ndarray, first: int) -> list[tuple[int, int]]:
        """Return (tokens that may still come, mask), the least first; the last is for more, too."""
        if first >= 0:
            return [(0, self._mask(np.array([first]), False))]
        tokens = np.flatnonzero(after != UNREACHED)
        near = after[tokens]
        accepting = bool(self._given.accepting[state])
        found = [(0, self._mask(tokens[:0], True))] if accepting else []
        for level in np.unique(near).tolist():
            found.append((level + 1, self._mask(tokens[near <= level], accepting)))
        return found

    def _mask(self, tokens: np.ndarray, accepting: bool) -> int:
        bits = np.zeros(len(self._trie.words), bool)
        bits[tokens] = True
        if accepting:
            bits[self._ends] = True
        number = self._masks.setdefault(packed(bits).tobytes(), len(self._masks))
        size = len(self._masks) * len(bits) // 8
        if size > MAX_BYTES or number >= UNREACHED:
            raise NotRegular(f"its masks take more than {MAX_BYTES >> 20} MiB")
        return number


def _fill(row: np.ndarray, levels: list[tuple[int, int]]) -> None:
    """Write masks by remaining tokens; too few for any text to end allow all."""
    if levels:
        row[:] = levels[-1][1]
    for (least, mask), (beyond, _) in zip(levels, levels[1:], strict=False):
        row[least:beyond] = mask


def _after_space(given: Automaton) -> Automaton:
    """Add a last state, which reads a space and is at the start then."""
    classes, moves = given.classes, given.moves
    space = ord(SPACE)
    if (classes == classes[space]).sum() > 1:
        moves = np.concatenate([moves, moves[:, classes[space], None]], 1)
        classes = classes.copy()
        classes[space] = moves.shape[1] - 1
    last = np.zeros((1, moves.shape[1]), moves.dtype)
    last[0, classes[space]] = START
    return Automaton(classes, np.concatenate([moves, last]), np.append(given.accepting, False))


def _next_bytes(given: Automaton, length: np.ndarray) -> list[tuple[int, int]]:
    """Return the first byte of each state's shortest completion, the least of equals, and where
    it leads; (-1, 0) where nothing need follow."""
    table = given.by_byte()
    after = np.where(table != DEAD, length[table], np.iinfo(np.int64).max)
    byte = after.argmin(1)
    targets = table[np.arange(len(table)), byte]
    return [
        (int(b), int(t)) if left > 0 else (-1, 0)
        for b, t, left in zip(byte, targets, length, strict=True)
    ]
