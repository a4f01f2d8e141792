"""States of a token table in which a text goes on in the same way for a while, whatever comes.

Inside a long repeat, as `[a-z ]{1,600}`, the next tokens neither end the text nor force anything
nor change what is allowed. So nothing need be looked at after each of them: the host catches up
with all of them at once, when something may happen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.constraints.automaton import DEAD
from ...ir.constraints.token_table import TokenTable

MOST_BYTES, FEWER_BYTES = 1024, 256
"""Bytes that are looked ahead; the second where a table has more moves than `MANY_MOVES`, which are
looked at for each of them."""

MANY_MOVES = 1 << 15

LEAST_BYTES = 8
"""States that are calm for fewer bytes are no longer looked at: one token may be as long."""


def calm_tokens(
    table: TokenTable, notable: np.ndarray, masks: np.ndarray, sizes: Callable[[], np.ndarray]
) -> list[int] | None:
    """Return for each state how many tokens may follow that change nothing; None: none in any.

    After each of them, while their number leaves the budget what it stands for, the mask is that
    of the state, and no state is `notable` [S] bool. `masks` [M, W] are what states allow;
    `sizes` gives the bytes [V] of each token.
    """
    bytes_ahead = _calm_bytes(table, notable)
    if bytes_ahead.max(initial=0) < LEAST_BYTES:
        return None
    number = table.mask_of[:, -1]
    calm, longest = np.flatnonzero(bytes_ahead), sizes()
    found = np.zeros(len(bytes_ahead), np.int64)
    for mask in np.unique(number[calm]):
        allowed = np.unpackbits(masks[mask].view(np.uint8), bitorder="little")[: len(longest)]
        most = max(1, int(longest[np.flatnonzero(allowed)].max(initial=1)))
        states = calm[number[calm] == mask]
        found[states] = bytes_ahead[states] // most
    return found.tolist() if found.any() else None


def _calm_bytes(table: TokenTable, notable: np.ndarray) -> np.ndarray:
    """Return for each state [S] how many bytes, of any text, lead to states of the same mask that
    are not notable; at most `MOST_BYTES`."""
    moves, number = table.moves, table.mask_of[:, -1]
    found = np.zeros(len(moves), np.int64)
    calm = ~notable
    calm[DEAD] = False
    states = np.flatnonzero(calm)
    for count in range(MOST_BYTES if moves.size <= MANY_MOVES else FEWER_BYTES):
        after = moves[states]
        same = calm[after] & (number[after] == number[states, None])
        states = states[(same | (after == DEAD)).all(1)]
        if not len(states):
            break
        found[states] = count + 1
        calm = np.zeros_like(calm)
        calm[states] = True
    return found
