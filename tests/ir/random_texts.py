"""Texts of automata, drawn at random."""

from random import Random

import numpy as np
from weft.ir.constraints.automaton import START, Automaton, shortest_bytes


def random_text(found: Automaton, random: Random) -> bytes:
    """Return one of an automaton's texts, by bytes drawn at random."""
    table, data, state = found.by_byte(), b"", START
    for _ in range(400):
        choices = np.flatnonzero(table[state]).tolist()
        if found.accepting[state] and (not choices or random.random() < 0.3):
            return data
        closing = [b for b in choices if b in b'"}],']
        byte = random.choice(closing if closing and random.random() < 0.4 else choices)
        data += bytes((byte,))
        state = int(table[state, byte])
    left = shortest_bytes(found)
    while not found.accepting[state]:  # the rest by the shortest way
        byte = min(np.flatnonzero(table[state]).tolist(), key=lambda b: left[table[state, b]])
        data += bytes((byte,))
        state = int(table[state, byte])
    return data
