"""Stop strings as part of a constraint: its texts, each whole when the first stop string comes."""

from __future__ import annotations

import numpy as np

from .automaton import (
    DEAD,
    MAX_STATES,
    START,
    Automaton,
    Either,
    Expression,
    NotRegular,
    Seq,
    Text,
    automaton,
    minimised,
)


def until_stop(expression: Expression, stops: tuple[str, ...]) -> Automaton:
    """Return the automaton of an expression's texts without a stop string, or with one after them.

    What ends a generation so cuts off no part of a text that belongs to it, and may be said where
    the text could go on until its end. Where no text is without a stop string, stops are no part
    of it.
    """
    whole = automaton(expression)
    choices = tuple(Text(stop) for stop in stops)
    stopped = automaton(Seq((expression, Either(choices))))
    try:
        return minimised(_product(whole, stopped, _Stops(stops)))
    except NotRegular as reason:
        if "more than" in str(reason):
            raise
        return whole


class _Stops:
    """Finds the first stop string byte by byte (Aho and Corasick); `HIT`: one has ended here."""

    HIT = -1

    def __init__(self, stops: tuple[str, ...]) -> None:
        data = [stop.encode() for stop in stops]
        prefixes = {word[:end] for word in data for end in range(len(word))}
        self._numbers = {prefix: n for n, prefix in enumerate(sorted(prefixes, key=len))}
        self.bytes = sorted({byte for word in data for byte in word})
        self.after = [
            {byte: self._step(prefix + bytes((byte,)), data) for byte in self.bytes}
            for prefix in self._numbers
        ]

    def _step(self, seen: bytes, data: list[bytes]) -> int:
        if any(seen.endswith(word) for word in data):
            return self.HIT
        return next(
            self._numbers[seen[at:]] for at in range(len(seen) + 1) if seen[at:] in self._numbers
        )


def _product(whole: Automaton, stopped: Automaton, stops: _Stops) -> Automaton:
    """Run all three side by side; a text that may not go on is whole without a stop string."""
    classes, bytes_of = _joint_classes(whole, stopped, stops)
    final = (DEAD, DEAD, stops.HIT)
    numbers = {(DEAD, DEAD, 0): DEAD, (START, START, 0): START}
    todo = [(START, START, 0)]
    rows, accepting = [[DEAD] * len(bytes_of)], [False]
    over = whole.accepting & ~whole.moves.any(1)
    for state in todo:
        first, second, seen = state
        row = [DEAD] * len(bytes_of)
        if state != final and not over[first]:
            for number, byte in enumerate(bytes_of):
                one = int(whole.moves[first, whole.classes[byte]])
                two = int(stopped.moves[second, stopped.classes[byte]])
                hit = stops.after[seen].get(byte, 0)
                if hit == stops.HIT:
                    after = final if stopped.accepting[two] else (DEAD, DEAD, 0)
                else:
                    after = (one, two, hit) if one or two else (DEAD, DEAD, 0)
                if after not in numbers:
                    numbers[after] = len(numbers)
                    todo.append(after)
                row[number] = numbers[after]
        rows.append(row)
        accepting.append(state == final or bool(whole.accepting[first]))
        if len(todo) > MAX_STATES:
            raise NotRegular(f"with its stop strings it has more than {MAX_STATES} states")
    return Automaton(classes, np.array(rows, np.int32), np.array(accepting))


def _joint_classes(
    whole: Automaton, stopped: Automaton, stops: _Stops
) -> tuple[np.ndarray, list[int]]:
    """Return classes of bytes that none of the three tells apart, and a byte of each."""
    own = np.zeros(256, np.uint8)
    own[stops.bytes] = np.arange(1, len(stops.bytes) + 1)
    columns = np.stack([whole.classes, stopped.classes, own])
    _, firsts, classes = np.unique(columns, axis=1, return_index=True, return_inverse=True)
    return classes.reshape(-1).astype(np.uint8), firsts.tolist()
