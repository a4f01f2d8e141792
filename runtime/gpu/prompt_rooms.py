"""Rooms of recorded steps of prompts: generous ones, so that few of them hold most steps.

A place of which a step has nothing costs a device next to nothing: an item of no keys 0.03 us of a
layer, and a token none of a library's products up to the end of a block of their rows. To launch
such a step kernel by kernel costs its host 8 to 14 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..attention.cost import Shape
from ..attention.grown_lists import PAGES, Lists
from ..attention.lists import ARRAYS, PROMPTS, extent_of
from ..attention.rooms import Room
from ..execution.recipe import PLANNED
from ..execution.slot_copies import COPIED
from ..execution.step import StepInput
from ..schedule.whole_blocks import BLOCK
from .token_counts import MANY, filled

TOKENS = MANY
"""A step of more is launched: it takes a device longer than the host needs to launch the next."""

FEW = (32, 64, 192)
"""Tokens of rooms besides whole blocks. With one every 32 tokens tree_of_thoughts' first run on an
H200 launched 13 steps for 166 ms, and its fourth one still 7."""

RECORDED = 80
"""Steps of prompts that are recorded at most; others borrow one of these, or are launched."""

LENT_FOR = 1e-3
"""Seconds that a borrowed recording may lose of a step: no block more. A device waits for few
launches of prompts, but computes what is empty in each: with up to 7 ms lent hellaswag took an H200
0.308 s, launched 0.279, and retry 0.427 and 0.385."""

BESIDE = 1024
"""Entries of rows beyond a step's tokens: of those that read their keys in several items."""

LISTED = ({"W": 64, "M": 16, "G": 64}, {"W": 512, "M": 192, "G": 512})
"""Places for items, for those among them of many rows, and for joined rows."""

LOGITS = (64, 256, 1024)
COPIES = (256, 4096)


class PromptRooms:
    """Finds the room of a step: `counts` are the numbers of tokens that products are loaded for."""

    def __init__(
        self, shape: Shape, counts: Sequence[int], max_logits: int, slots: int, entries: int,
        copies: bool,
    ) -> None:  # fmt: skip
        self._shape, self._slots, self._entries = shape, slots, entries
        counts = [count for count in counts if count <= TOKENS]
        last = counts[-1:]  # of an executor whose steps have no more
        self._counts = [n for n in counts if n % BLOCK == 0 or n in FEW or n in last]
        self._logits = (*(count for count in LOGITS if count < max_logits), max_logits)
        self._copies = COPIES if copies else (0,)
        self._known: dict[tuple[int, int, int], list[Room]] = {}

    def generous(self) -> Iterator[Room]:
        """Yield two rooms of each number of tokens, the largest first: one that holds most steps of
        few rows, and one that holds most of many."""
        for tokens in reversed(self._counts):
            logits = filled(self._logits, min(tokens, LOGITS[1], self._logits[-1]))
            yield self._room(tokens, self._logits[0], self._copies[0], LISTED[0])
            yield self._room(tokens, logits, self._copies[-1], LISTED[-1])

    def of(self, step: StepInput, lists: Lists) -> Room | None:
        """Return the room of a step whose lists are tiles of prompts and others, those of slots
        that it copies among them; None: it is not recorded."""
        tokens = filled(self._counts, step.tokens.shape[0])
        if f"{PLANNED}P" not in lists.extents or tokens not in self._counts:
            return None
        logits = filled(self._logits, step.logits_rows.shape[0])
        copies = filled(self._copies, len(lists.arrays.get(COPIED[0], ())))
        if logits not in self._logits or copies not in self._copies:
            return None
        kind = tokens, logits, copies
        if kind not in self._known:
            self._known[kind] = [self._room(*kind, places) for places in LISTED]
        return next((room for room in self._known[kind] if room.takes(lists)), None)

    def _room(self, tokens: int, logits: int, copies: int, places: dict[str, int]) -> Room:
        rows = tokens + BESIDE
        # A sequence that has tiles fills one: at most every second is not full.
        extents = {**places, "R": rows, "S": min(rows, self._slots), "G1": places["G"] + 1,
                   "P": 2 * tokens // self._shape.rows_many, "F": tokens}  # fmt: skip
        sizes = [(PLANNED + name, extents[extent_of(name)]) for name in ARRAYS]
        sizes += [(PLANNED + name, extents["P"]) for name in PROMPTS]
        sizes += [(name, copies) for name in COPIED] if copies else []
        planned = tuple((PLANNED + name, count) for name, count in extents.items())
        return Room(tokens, False, planned, (*sizes, (PAGES, self._entries)), logits=logits)
