"""The running batch as a structure of arrays, of which `step_packing` makes a step's input.

Rows `[0, size)` generate: each has one token to feed. A prefill that will generate joins as the
next row in the step that ends it; rows past those are scratch of the step. All arrays are
allocated once, so that a steady decode step makes no Python object per token.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..execution.step import WHOLE, ModelExecutor, StepInput, reads_of
from .request import Request
from .step_packing import StepPacking

MAX_ENDS = 8

UNWATCHED = np.iinfo(np.int32).max
"""What a row without a watch may produce before something is to be looked at."""


class Chunk:
    """A stretch of a sequence's tokens that a step computes, besides the running rows."""

    __slots__ = (
        "copied", "count", "ends", "joins", "packed_end", "request", "scores", "start",
    )  # fmt: skip

    def __init__(self, request: Request, start: int, count: int) -> None:
        end = start + count
        self.request = request
        self.start = start
        self.count = count
        self.ends = end == request.sequence.length
        self.joins = request.sampling is not None and self.ends
        first = request.score_from
        self.scores = 0 if first is None else max(0, end - max(first, start))
        self.packed_end = 0
        self.copied: np.ndarray | None = None
        """Slots [2, X] from and to which the step copies what another computes of its tokens."""

    @property
    def scored_from(self) -> int:
        """The number of its first scored position among those of its request."""
        return max(0, self.start - (self.request.score_from or 0))

    @property
    def reads(self) -> int:
        """Which keys it reads: a prompt's tokens all, also one that comes alone, as others of its
        prompt are cached."""
        request = self.request
        return WHOLE if self.start < request.prompt else reads_of(request.attention)

    @property
    def asked(self) -> list[tuple[int, ...]]:
        """The words whose log-probability is asked after each of its scored positions."""
        first, asked = self.scored_from, self.request.asked
        known = list(asked[first : first + self.scores])
        return known + [()] * (self.scores - len(known))


COLUMNS = 256
"""New tokens of a row that there is room for at first."""


class Batch:
    """Arrays over rows, and the requests that own the rows."""

    def __init__(self, executor: ModelExecutor) -> None:
        rows, context = executor.max_batch, executor.context_length
        self.size = 0
        self.leaves = 0
        self.changes = 0
        """How often rows, or what their masks allow, have changed."""
        self._births = 0
        self._longest = 0
        """No row has more new tokens: to look at all of them takes 30 us behind a step."""
        self.requests: list[Request] = []
        self.constrained = 0
        self.random = 0
        # One entry a row.
        self.token = np.zeros(rows, np.int32)
        self.resident = np.zeros(rows, np.int32)
        self.produced = np.zeros(rows, np.int32)
        self.limit = np.zeros(rows, np.int32)
        self.reads = np.zeros(rows, np.int32)
        self.ends = np.full((rows, MAX_ENDS), -1, np.int32)
        self.key = np.zeros(rows, np.uint64)
        self.birth = np.zeros(rows, np.int64)
        self.margin = np.zeros(rows, np.float32)
        self.calm = np.full(rows, UNWATCHED, np.int32)
        """New tokens up to which a row's watch need not be looked at, and its mask stays."""
        self.seen = np.zeros(rows, np.int32)
        """New tokens that a row's watch has taken."""
        self.wide = np.zeros(rows, bool)
        """Calm rows that are allowed so many words that leaving out others pays nothing."""
        self.may_calm = not getattr(executor, "asynchronous", False)
        self._quiet = -1, -1
        self.quiet_wide = False
        """Whether some row is `wide` while all are quiet."""
        self.table = np.zeros((rows, -(-context // executor.page_size)), np.int32)
        # Rows lie close together: of wide ones each first token would touch memory of its own.
        self.history = np.empty((rows, min(context, COLUMNS)), np.int32)
        self.logprob = np.empty((rows, min(context, COLUMNS)), np.float32)
        # The sampler's parameters, one a row.
        self.temperature = np.zeros(rows, np.float32)
        self.top_k = np.zeros(rows, np.int32)
        self.top_p = np.ones(rows, np.float32)
        self.min_p = np.zeros(rows, np.float32)
        self.uniform = np.zeros(rows, np.float32)
        self.masks = np.full((rows, -(-executor.vocab_size // 32)), -1, np.int32)
        self.filled = False
        """Whether some row's mask may forbid a word. A row of 128 K words is 16 KB: none is copied
        where a device has the masks."""
        self.shown: list[np.ndarray | None] = []
        """The table's mask that a row of `masks` is a copy of, if it is one."""
        self._rows = (
            self.token, self.resident, self.produced, self.limit, self.ends, self.key,
            self.birth, self.reads, self.calm, self.seen, self.wide,
            self.margin, self.table, self.temperature, self.top_k, self.top_p, self.min_p,
        )  # fmt: skip
        self._packing = StepPacking(executor, self.table)
        self._settings: dict[tuple[int, bool], tuple[Tensor | None, ...]] = {}

    def make_room(self) -> None:
        """Let each row have one token more."""
        columns = self.history.shape[1]
        if self._longest >= columns:
            self._longest = int(self.produced[: self.size].max(initial=0))
        if self._longest >= columns:
            wider = ((0, 0), (0, max(columns, self._longest + 1 - columns)))
            self.history, self.logprob = (
                np.pad(array, wider) for array in (self.history, self.logprob)
            )
        self._longest += 1

    def join(self, request: Request) -> int:
        """Give `request`, whose last token is in this step, the next row, in which its pages are
        packed."""
        sampling, sequence, row = request.sampling, request.sequence, self.size
        assert sampling is not None
        self.requests.append(request)
        self.shown.append(None)
        self.size += 1
        self.changes += 1
        self._births += 1
        self.birth[row] = self._births
        self.resident[row] = sequence.length
        self.produced[row] = request.produced
        self._longest = max(self._longest if row else 0, request.produced)
        self.reads[row] = reads_of(request.attention)
        self.limit[row] = sampling.max_tokens
        self.ends[row] = -1
        self.ends[row, : len(sampling.ends)] = sampling.ends
        self.key[row] = sampling.key
        self.margin[row] = request.margin
        self._look_from(row)
        self.temperature[row] = sampling.temperature
        self.top_k[row] = sampling.top_k
        self.top_p[row] = sampling.top_p
        self.min_p[row] = sampling.min_p
        self._count(request, 1)
        return row

    def at_limit(self) -> np.ndarray:
        """Return the rows that may have but one token more."""
        return np.flatnonzero(self.produced[: self.size] + 1 >= self.limit[: self.size])

    def leave(self, row: int) -> None:
        """Move the row's tokens to its sequence; the last row takes its place."""
        request = self.requests[row]
        self.leaves += 1
        self.changes += 1
        self._catch_up(row, int(self.produced[row]))
        self.flush(row)
        self._count(request, -1)
        last = self.size - 1
        if row != last:
            for array in self._rows:
                array[row] = array[last]
            moved = self.requests[last]
            fresh = slice(moved.flushed, int(self.produced[last]))
            self.history[row, fresh] = self.history[last, fresh]
            self.logprob[row, fresh] = self.logprob[last, fresh]
            self.requests[row], self.shown[row] = moved, self.shown[last]
            if self.filled:
                self.masks[row] = self.masks[last]
        if self.filled:
            self.masks[last] = -1
        self.requests.pop()
        self.shown.pop()
        self.size = last

    def unconstrain(self, row: int) -> None:
        """Let a row whose constraint has let go generate freely."""
        request = self.requests[row]
        self._count(request, -1)
        assert request.watch is not None
        request.watch.matcher = None
        if request.watch.needless:
            request.watch = None
        self._count(request, 1)
        if self.filled:
            self.masks[row] = -1
        self.shown[row] = None
        self.changes += 1
        self._look_from(row)

    def be_quiet(self) -> None:
        """Note for how many steps all rows stay calm, if they do."""
        size = self.size
        steps = int((self.calm[:size] - self.produced[:size]).min())
        self._quiet = self.changes, self.produced.item(0) + steps
        self.quiet_wide = bool(self.wide[:size].any())

    def is_quiet(self) -> bool:
        """Whether no row's mask is to be looked at: to ask each row takes 30 us behind a step."""
        changes, until = self._quiet
        return changes == self.changes and self.produced.item(0) <= until

    def sees(self, rows: np.ndarray) -> None:
        """Let the watches of rows take what came before their last tokens, which come to be looked
        at now."""
        produced = self.produced[rows]
        for row in rows[self.seen[rows] < produced - 1].tolist():
            self._catch_up(row, int(self.produced[row]) - 1)
        self.seen[rows] = produced

    def _catch_up(self, row: int, produced: int) -> None:
        """Let the row's watch take those of its first tokens that it was not asked about."""
        watch, seen = self.requests[row].watch, int(self.seen[row])
        if watch is not None and seen < produced:
            watch.catch_up(self.history[row, seen:produced].tolist())
            self.seen[row] = produced

    def _look_from(self, row: int) -> None:
        """Let the row's watch, if it has one, be looked at from the next token on."""
        self.calm[row] = UNWATCHED if self.requests[row].watch is None else -1
        self.seen[row], self.wide[row] = self.produced[row], False

    def flush(self, row: int) -> None:
        """Append the row's new tokens to its sequence, and update the sequence's books."""
        request = self.requests[row]
        sequence, produced = request.sequence, int(self.produced[row])
        fresh = slice(request.flushed, produced)
        sequence.append(self.history[row, fresh])
        if request.logprobs:
            request.token_logprobs += self.logprob[row, fresh].tolist()
        # A step that ran ahead has computed the KV of an end token, too.
        sequence.resident = min(int(self.resident[row]), sequence.length)
        request.produced = request.flushed = produced
        request.margin = float(self.margin[row])

    def set_pages(self, row: int) -> None:
        """Copy the page table of the row's sequence."""
        sequence = self.requests[row].sequence
        self.table[row, : sequence.held] = sequence.pages[: sequence.held]

    def pack(self, chunks: list[Chunk]) -> tuple[StepInput, int, int]:
        """Return the step's input, its number of tokens, and how many logits rows are sampled.

        Chunks that join come first, and become rows; the others' rows are only of this step.
        """
        count, packing = self.size, self._packing
        packing.running(self)
        tokens = packing.chunks(chunks, count, count) if chunks else count
        wanted = count
        for chunk in chunks:
            if chunk.joins:
                self.join(chunk.request)
                wanted = packing.want(wanted, chunk.packed_end - 1, chunk.packed_end)
        sampled = wanted
        for chunk in chunks:
            end = chunk.packed_end
            wanted = packing.want(wanted, end - chunk.scores, end)
        step = packing.view(tokens, count + len(chunks), wanted)
        copied = [chunk.copied for chunk in chunks if chunk.copied is not None]
        if copied:
            step = replace(step, copies=torch.from_numpy(np.concatenate(copied, 1)))
        return step, tokens, sampled

    def kv_tokens(self, rows: int) -> int:
        """Return the tokens that the attention of the packed step's sequences sees."""
        return self._packing.kv_tokens(rows)

    def settings(self, count: int, masked: bool) -> tuple[Tensor | None, ...]:
        """Return the sampler's parameters of the first rows: bitmask or None, temperature, ..."""
        known = self._settings.get((count, masked))
        if known is None:
            arrays = (self.temperature, self.top_k, self.top_p, self.min_p, self.uniform)
            views = tuple(torch.from_numpy(array)[:count] for array in arrays)
            mask = torch.from_numpy(self.masks)[:count] if masked else None
            known = self._settings[count, masked] = (mask, *views)
        return known

    def _count(self, request: Request, change: int) -> None:
        assert request.sampling is not None
        self.random += change * (request.sampling.temperature > 0)
        if request.watch is not None:
            self.constrained += change * (request.watch.matcher is not None)
