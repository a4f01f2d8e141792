"""Finite automata over bytes: regular expressions become a small deterministic automaton.

An expression is built of `Text`, `Chars`, `Seq`, `Either` and `Repeat`; `automaton` makes it a
nondeterministic automaton (Thompson), then a deterministic one (subsets), and minimises that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf

import numpy as np

from .utf8 import WIDTHS, Ranges, byte_sequences

MAX_STATES = 8192
"""States above which a constraint is not compiled to tables."""

MAX_POSITIONS = 750
"""Positions for each of the states above at which work on subsets stops: some patterns have subsets
of tens of thousands, which would take minutes and the memory before states are too many."""

DEAD, START = 0, 1


class NotRegular(Exception):
    """What cannot become a table, or not a small one; the text says why."""


@dataclass(frozen=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True)
class Chars:
    """One character of some ranges of code points."""

    ranges: Ranges


@dataclass(frozen=True)
class Seq:
    """One after the other."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Either:
    """One of some choices."""

    choices: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """`low` to `high` times (None: any number of times)."""

    inner: Expression
    low: int
    high: int | None


Expression = Text | Chars | Seq | Either | Repeat


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over bytes; state 0 is dead, 1 the start.

    `classes` [256] numbers each byte's class, `moves` [S, C] is the next state by class,
    `accepting` [S] says where a text may end.
    """

    classes: np.ndarray
    moves: np.ndarray
    accepting: np.ndarray

    @property
    def states(self) -> int:
        """The number of states, the dead one included."""
        return len(self.moves)

    def by_byte(self) -> np.ndarray:
        """Return the next state by byte, [S, 256]."""
        return np.ascontiguousarray(self.moves[:, self.classes])

    def walk(self, data: bytes, state: int = START) -> int:
        """Return the state after some bytes."""
        for byte in data:
            state = int(self.moves[state, self.classes[byte]])
        return state

    def accepts(self, data: bytes) -> bool:
        """Whether this is a whole text."""
        return bool(self.accepting[self.walk(data)])


def automaton(expression: Expression, limit: int = MAX_STATES) -> Automaton:
    """Return the smallest automaton of an expression; raises NotRegular above `limit` states."""
    shortest, longest = _lengths_of(expression)
    visited = shortest if longest == inf else longest  # the path of that text meets no state twice
    if limit <= visited < inf:
        raise NotRegular(f"a text of {visited:,} bytes takes more than {limit} states")
    nfa = _Nfa(16 * limit)
    end = nfa.emit(expression, nfa.new())
    return minimised(_Subsets(nfa, end, limit).run())


def _lengths_of(expression: Expression) -> tuple[float, float]:
    """Return the bytes of its shortest and its longest text; (inf, -inf) where it has none."""
    match expression:
        case Text(text):
            size = len(text.encode())
            return size, size
        case Chars(ranges):
            bytes_of = [sum(point >= first for first, _ in WIDTHS) for point in chain(*ranges)]
            return min(bytes_of, default=inf), max(bytes_of, default=-inf)
        case Seq(parts):
            found = [_lengths_of(part) for part in parts]
            shortest = sum(least for least, _ in found)
            return shortest, -inf if shortest == inf else sum(most for _, most in found)
        case Either(choices):
            found = [_lengths_of(choice) for choice in choices]
            least = min((least for least, _ in found), default=inf)
            return least, max((most for _, most in found), default=-inf)
        case Repeat(inner, low, high):
            least, most = _lengths_of(inner)
            if most <= 0 or high == 0:  # nothing to repeat, or the empty text alone
                return (0, 0) if not low or most == 0 else (inf, -inf)
            return low * least, inf if high is None else high * most
    raise TypeError(expression)


class _Nfa:
    """States with edges over byte ranges, and skips that read nothing."""

    def __init__(self, limit: int) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        self.skips: list[list[int]] = []
        self._limit = limit

    def new(self) -> int:
        if len(self.edges) > self._limit:
            raise NotRegular(f"it has more than {self._limit} positions")
        self.edges.append([])
        self.skips.append([])
        return len(self.edges) - 1

    def emit(self, expression: Expression, start: int) -> int:
        """Add an expression that begins at a state; return where it ends."""
        match expression:
            case Text(text):
                for byte in text.encode():
                    start, before = self.new(), start
                    self.edges[before].append((byte, byte, start))
                return start
            case Chars(ranges):
                return self._chars(ranges, start)
            case Seq(parts):
                for part in parts:
                    start = self.emit(part, start)
                return start
            case Either(choices):
                return self._either(choices, start)
            case Repeat(inner, low, high):
                return self._repeat(inner, low, high, start)
        raise TypeError(expression)

    def _chars(self, ranges: Ranges, start: int) -> int:
        """Sequences that go on alike share their states."""
        end = self.new()
        places: dict[tuple[tuple[int, int], ...], int] = {(): end}
        for sequence in byte_sequences(ranges):
            for cut in range(len(sequence) - 1, 0, -1):
                rest = sequence[cut:]
                if rest not in places:
                    places[rest] = self.new()
                    self.edges[places[rest]].append((*rest[0], places[rest[1:]]))
            self.edges[start].append((*sequence[0], places[sequence[1:]]))
        return end

    def _either(self, choices: tuple[Expression, ...], start: int) -> int:
        ends = []
        for choice in choices:
            inner = self.new()
            self.skips[start].append(inner)
            ends.append(self.emit(choice, inner))
        end = self.new()
        for inner in ends:
            self.skips[inner].append(end)
        return end

    def _repeat(self, inner: Expression, low: int, high: int | None, start: int) -> int:
        if isinstance(inner, Repeat) and (both := _product_of_counts(inner, low, high)):
            return self._repeat(inner.inner, *both, start)
        for _ in range(low):
            start = self.emit(inner, start)
        if high is None:
            loop = self.new()
            self.skips[start].append(loop)
            self.skips[self.emit(inner, loop)].append(loop)
            return loop
        leaving = [start]
        for _ in range(high - low):
            start = self.emit(inner, start)
            leaving.append(start)
        end = self.new()
        for state in leaving:
            self.skips[state].append(end)
        return end


def _product_of_counts(inner: Repeat, low: int, high: int | None) -> tuple[int, int | None] | None:
    """Return how often `inner` comes in all where it is repeated `low` to `high` times: any number
    from the least to the most, or None where some between them are left out."""
    whole = None if inner.high is None or high is None else inner.high * high
    if high == 0 or inner.high == 0:
        return 0, 0
    if low == 0 and inner.low > 1:
        return None  # not at all, or some times
    most, least = inner.high, max(low, 1)  # the gap behind `least` rounds is the widest
    if most is not None and high != least and (least + 1) * inner.low > least * most + 1:
        return None
    return low * inner.low, whole


class _Subsets:
    """The subset construction, over classes of bytes that no edge tells apart."""

    def __init__(self, nfa: _Nfa, end: int, limit: int) -> None:
        self._nfa, self._end, self._limit = nfa, end, limit
        cuts = {0, *(edge[0] for edges in nfa.edges for edge in edges)}
        cuts |= {edge[1] + 1 for edges in nfa.edges for edge in edges}
        self._cuts = sorted(cut for cut in cuts if cut < 256)
        numbers = {cut: number for number, cut in enumerate(self._cuts)} | {256: len(self._cuts)}
        self._edges = [
            [(numbers[low], numbers[high + 1], target) for low, high, target in edges]
            for edges in nfa.edges
        ]
        self._closures: dict[int, frozenset[int]] = {}

    def run(self) -> Automaton:
        first = self._closure(0)
        numbers: dict[frozenset[int], int] = {frozenset(): DEAD, first: START}
        todo, rows = [first], [[DEAD] * len(self._cuts)]
        seen = 0
        for subset in todo:
            seen += len(subset)
            if seen > MAX_POSITIONS * self._limit:
                raise NotRegular("its automaton has too many states at once")
            row = [DEAD] * len(self._cuts)
            known: dict[tuple[int, ...], int] = {}
            for number, targets in self._targets(subset):
                state = known.get(targets)
                if state is None:
                    after = frozenset().union(*map(self._closure, targets))
                    state = numbers.setdefault(after, len(numbers))
                    known[targets] = state
                    if state == len(todo) + 1:
                        todo.append(after)
                row[number] = state
            rows.append(row)
            if len(todo) > self._limit:
                raise NotRegular(f"its automaton has more than {self._limit} states")
        widths = np.diff([*self._cuts, 256])
        classes = np.repeat(np.arange(len(self._cuts)), widths).astype(np.uint8)
        accepting = np.array([False, *(self._end in subset for subset in todo)])
        return Automaton(classes, np.array(rows, np.int32), accepting)

    def _targets(self, subset: frozenset[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
        found: dict[int, list[int]] = {}
        for state in subset:
            for low, high, target in self._edges[state]:
                for number in range(low, high):
                    found.setdefault(number, []).append(target)
        return ((number, tuple(targets)) for number, targets in found.items())

    def _closure(self, state: int) -> frozenset[int]:
        """Return the states that matter (with edges, or the end) and that skips lead to."""
        known = self._closures.get(state)
        if known is None:
            seen, todo = {state}, [state]
            for one in todo:
                for other in self._nfa.skips[one]:
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
            known = frozenset(s for s in seen if self._edges[s] or s == self._end)
            self._closures[state] = known
        return known


def minimised(full: Automaton) -> Automaton:
    """Return the smallest automaton of the same texts, numbered breadth first from the start."""
    trimmed = _trimmed(full)
    labels = refine(trimmed, _lengths(trimmed), trimmed.states)
    _, firsts, numbers = np.unique(labels, return_index=True, return_inverse=True)
    moves = numbers.reshape(-1)[trimmed.moves[firsts]]
    return _renumbered(
        moves, trimmed.accepting[firsts], trimmed.classes,
        dead=int(numbers.reshape(-1)[DEAD]), start=int(numbers.reshape(-1)[START]),
    )  # fmt: skip


def refine(given: Automaton, labels: np.ndarray, rounds: int) -> np.ndarray:
    """Tell states apart that some bytes, at most `rounds`, lead to states told apart (Moore)."""
    count = len(set(labels.tolist()))
    for _ in range(rounds):
        rows = np.concatenate([labels[:, None], labels[given.moves]], 1).astype(np.int32)
        numbers: dict[bytes, int] = {}
        data, width = rows.tobytes(), rows.shape[1] * 4
        labels = np.array(
            [
                numbers.setdefault(data[at : at + width], len(numbers))
                for at in range(0, len(data), width)
            ]
        )
        if len(numbers) == count:
            break
        count = len(numbers)
    return labels


def shortest_bytes(given: Automaton) -> np.ndarray:
    """Return the bytes of the shortest completion from each state [S]; -1 where there is none."""
    found = np.where(given.accepting, 0, -1)
    while True:
        after = found[given.moves]
        best = np.where(after < 0, np.iinfo(np.int64).max - 1, after).min(1) + 1
        more = (found < 0) & (best < np.iinfo(np.int64).max)
        if not more.any():
            return found
        # One length at a time: the least first.
        more &= best == best[more].min()
        found = np.where(more, best, found)


def _trimmed(full: Automaton) -> Automaton:
    """Let everything that leads to no end be the dead state."""
    dead = shortest_bytes(full) < 0
    if dead[START]:
        raise NotRegular("no text fits it")
    moves = np.where(dead[full.moves], DEAD, full.moves)
    moves[dead] = DEAD
    return Automaton(full.classes, moves, full.accepting)


def longest_bytes(given: Automaton) -> list[int]:
    """Return the bytes of the longest completion from each state; -1 where nothing bounds it."""
    successors = [set(row.tolist()) - {DEAD} for row in given.moves]
    before: list[list[int]] = [[] for _ in successors]
    for state, targets in enumerate(successors):
        for target in targets:
            before[target].append(state)
    waiting = [len(targets) for targets in successors]
    longest = [-1] * len(successors)
    ready = [state for state, count in enumerate(waiting) if not count]
    for state in ready:
        longest[state] = max((longest[t] + 1 for t in successors[state]), default=0)
        for one in before[state]:
            waiting[one] -= 1
            if not waiting[one]:
                ready.append(one)
    return longest


def _lengths(given: Automaton) -> np.ndarray:
    """Return labels that tell most states apart at once: their shortest and longest completion."""
    shortest, longest = shortest_bytes(given).tolist(), longest_bytes(given)
    pairs = list(zip(shortest, longest, given.accepting.tolist(), strict=True))
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([numbers[pair] for pair in pairs])


def _renumbered(
    moves: np.ndarray, accepting: np.ndarray, classes: np.ndarray, dead: int, start: int
) -> Automaton:
    order, place = [dead, start], {dead: 0, start: 1}
    for state in order:
        for target in moves[state].tolist():
            if target not in place:
                place[target] = len(order)
                order.append(target)
    numbers = np.zeros(len(moves), np.int32)
    numbers[order] = np.arange(len(order))
    # Bytes that no state tells apart are one class.
    columns, kinds = np.unique(numbers[moves[order]], axis=1, return_inverse=True)
    return Automaton(
        kinds.reshape(-1)[classes].astype(np.uint8), np.ascontiguousarray(columns), accepting[order]
    )
