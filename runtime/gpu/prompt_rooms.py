"""Rooms of recorded steps of prompts: generous ones, so that few of them hold most steps.

A place of which a step has nothing costs a device next to nothing: an item of no keys 0.03 us of a
layer. To launch such a step kernel by kernel costs its host 8 to 14 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..attention.cost import Shape
from ..attention.grown_lists import PAGES, Lists
from ..attention.lists import ARRAYS, PROMPTS, extent_of
from ..attention.rooms import Room
from ..execution.recipe import PLANNED
from ..execution.slot_copies import COPIED
from ..execution.step import StepInput
from .token_counts import MANY, filled

TOKENS = MANY
"""A step of more is launched: it takes a device longer than the host needs to launch the next."""

RECORDED = 48
"""Steps of prompts that are recorded at most; others borrow one of these, or are launched."""

LENT_FOR = 1e-3
"""Seconds that a borrowed recording may lose of a step: of up to 32 tokens more. A device waits for
few launches of prompts, but computes what is empty in each: with up to 7 ms lent hellaswag took an
H200 0.308 s, launched 0.279, and retry 0.427 and 0.385."""

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
        self._counts = [count for count in counts if count <= TOKENS]
        self._logits = (*(count for count in LOGITS if count < max_logits), max_logits)
        self._copies = COPIES if copies else (0,)
        self._known: dict[tuple[int, int, int], list[Room]] = {}

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
