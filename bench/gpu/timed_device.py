"""A device that computes nothing: steps take their time, and draws are words at random.

The host's side of an engine runs on it in earnest: texts, schedules, attention lists, constraints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from weft.compiler.attention_ways import attention_ways, planner_shape
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import tuned
from weft.runtime.attention.grown_lists import Lists
from weft.runtime.attention.lists import AttentionLists, Room
from weft.runtime.devices.staging import Layout
from weft.runtime.execution.slot_copies import COPIED
from weft.runtime.execution.step import StepInput
from weft.runtime.gpu.first_steps import first_prompts
from weft.runtime.gpu.prompt_rooms import LENT_FOR, RECORDED, PromptRooms
from weft.runtime.gpu.recordings import COST, Recorded, Recordings
from weft.runtime.gpu.token_counts import token_counts
from weft.runtime.schedule.batch import Batch
from weft.runtime.schedule.held_rows import HeldRows
from weft.runtime.schedule.request import Request

PROMPT, PROMPTS, LAUNCH, BEGINS = 19.8e-6, 3.2e-3, 9e-3, 0.8e-3
"""Seconds of a prompt's token, of a step of prompts besides, of the host where nothing is recorded,
and until a device has its first kernel of that (an 8 B shape on an H200, whose steps of 137, 256,
320, 512, 626 and 2006 tokens took 5.7, 8.0, 9.5, 13.3, 16.7 and 43 ms)."""

ROW, STEP = 18e-6, 3.6e-3
"""Seconds of a row that decodes, and of a step of them besides (there 2, 36, 72, 104, 144, 217 and
256 rows took 4.6, 4.3, 5.2, 5.1, 5.8, 7.2 and 8.5 ms); no step takes less."""

REPLAY = 0.4e-3
"""Seconds of the host for the launch of a recording."""

SLOTS, ENTRIES = 16384, 1 << 18
"""States of attention, and page table entries of a recording, as a GPU's executor has them."""

PAGE = 64

DRAWS = 4096
"""Words that are drawn in turn."""


class Pace:
    """A draw that is there when its step has had its time."""

    def __init__(self, device: TimedDevice, rows: int, watched: dict[int, Request]) -> None:
        self._end, self._device = device.busy_until, device
        self._words, self._watched = device.draw(rows), watched

    def ready(self) -> bool:
        """Whether it is there."""
        return time.perf_counter() >= self._end

    def wait(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sleep until it is there; what a constraint holds is drawn from what that allows."""
        time.sleep(max(0.0, self._end - time.perf_counter()))
        words = self._words
        for row, request in self._watched.items():
            matcher = request.watch.matcher if request.watch is not None else None
            if matcher is not None:
                words[row] = self._device.allowed(matcher)
        zeros = torch.zeros(len(words))
        return torch.from_numpy(words), zeros, zeros


class TimedFound:
    """Log-probabilities that are there when their step has had its time: of a word its number."""

    def __init__(self, device: TimedDevice, words: np.ndarray) -> None:
        self._end, self._values = device.busy_until, (-1e-3 * words).tolist()

    def ready(self) -> bool:
        """Whether they are there."""
        return time.perf_counter() >= self._end

    def wait(self) -> list[float]:
        """Sleep until they are there."""
        time.sleep(max(0.0, self._end - time.perf_counter()))
        return self._values


class SeenRows(HeldRows):
    """Rows held to constraints on no device, and the batch that they are of."""

    batch: Batch | None = None

    def begin(self, batch: Batch, source: np.ndarray | None, running: int) -> bool:
        """Prepare the masks of a packed step."""
        self.batch = batch
        return super().begin(batch, source, running)


class Wait(NamedTuple):
    """When a device had nothing to do any more, when the host asked for its next step, and when
    that began, in seconds of the clock."""

    since: float
    asked: float
    begun: float


def waits_text(waits: Sequence[Wait], starts: Sequence[float]) -> str:
    """Return how long a device waited for its steps, by what the host did meanwhile; `starts` says
    when the host began to put each together. What came before the first step is left out."""
    found = [0.0, 0.0, 0.0]
    for (since, asked, begun), start in zip(waits[1:], starts[1:], strict=True):
        ends = start, asked, begun
        for place, (first, last) in enumerate(zip((since, start, asked), ends, strict=True)):
            found[place] += max(0.0, min(last, begun) - max(first, since))
    after, before, launch = (1e3 * seconds for seconds in found)
    return (
        f"the device waited {after + before + launch:.1f} ms: {after:.1f} for what follows last "
        f"tokens, {before:.1f} for schedules, {launch:.1f} for attention lists and launches"
    )


class TimedDevice:
    """An executor and a sampler that compute nothing: each step takes time, one after another.

    Free text is one of `words` after another, always the same ones. With `speed` 0 a step takes no
    time.
    """

    asynchronous = True
    copies_slots = True
    page_size, page_bytes, num_pages = PAGE, PAGE << 17, 12000

    def __init__(
        self, vocabulary: int, words: Sequence[int], batch: int = 256, context: int = 8192,
        speed: float = 1.0,
    ) -> None:  # fmt: skip
        self.vocab_size, self.context_length = vocabulary, context
        self.max_batch, self.max_tokens, self.max_logits = batch, 16384, 8 * batch
        self.busy_until, self.copies = 0.0, 0
        self.waits: list[Wait] = []
        self.held = SeenRows(
            vocabulary, torch.zeros(batch, dtype=torch.int32),
            torch.zeros((batch, -(-vocabulary // 32)), dtype=torch.int32), lambda *given: None,
        )  # fmt: skip
        self._speed = speed
        self._words = np.random.default_rng(1).choice(np.array(words, np.int32), DRAWS + batch)
        self._drawn = 0
        shape = Parts(32, 8, 128, PAGE)
        usual = planner_shape(tuned(shape, shared=True))
        self._lists = AttentionLists(
            usual, (0,), torch.device("meta"), SLOTS, ways=[*attention_ways(shape)], prompts=True
        )
        self._rooms = PromptRooms(
            usual, token_counts(self.max_tokens), self.max_logits, SLOTS, ENTRIES, copies=True
        )
        self._prompts = Recordings(most=RECORDED, lent=LENT_FOR)
        self._logits = torch.zeros(batch, 1).expand(batch, vocabulary)
        for step in first_prompts(PAGE, self.max_tokens):
            if room := self._room(step, self._lists.plan(step)):
                self._prompts.keep(room, self._record)
        for room in self._rooms.generous():
            self._prompts.keep(room, self._record)
        self._allowed: dict[bytes, np.ndarray] = {}
        self._mask = np.zeros((1, -(-vocabulary // 32)), np.int32)

    def forward(self, step: StepInput, source: np.ndarray | None = None) -> Tensor:
        """Take the step's time from when the device is free."""
        tokens, asked = len(step.tokens), time.perf_counter()
        replayed = step.is_decode or (tokens <= self.max_batch and step.copies is None)
        lists = self._lists.plan(step, replayed)
        replayed = replayed or self._recorded(step, lists)
        begins = time.perf_counter() + self._speed * (0.0 if replayed else BEGINS)
        time.sleep(self._speed * (REPLAY if replayed else LAUNCH))
        seconds = STEP + ROW * tokens
        if not step.is_decode:
            seconds = max(seconds, PROMPTS + PROMPT * tokens)
        seconds *= self._speed
        begins = max(self.busy_until, begins)
        self.waits.append(Wait(self.busy_until, asked, begins))
        ends = begins + seconds
        self.busy_until = ends if replayed else max(ends, time.perf_counter())
        return self._logits[:1].expand(len(step.logits_rows), self.vocab_size)

    def _recorded(self, step: StepInput, lists: Lists) -> bool:
        """Say whether a step of prompts is replayed by a recording: of as many blocks of tokens."""

        def record(room: Room) -> Recorded:
            time.sleep(self._speed * COST)
            return self._record(room)

        room = self._room(step, lists)
        return bool(room and self._prompts.find(room, record))

    def _room(self, step: StepInput, lists: Lists) -> Room | None:
        """Return the room of a step of prompts."""
        copies = 0 if step.copies is None else step.copies.shape[1]
        copied = {name: np.zeros(copies, np.int32) for name in COPIED}
        return self._rooms.of(step, replace(lists, arrays={**copied, **lists.arrays}))

    def _record(self, room: Room) -> Recorded:
        return Recorded(room, Layout.of([]), lambda: None, self._logits)

    def copy_page(self, source: int, target: int) -> None:
        """Count it."""
        self.copies += 1

    def start(self, logits: Tensor, *settings: Any) -> Pace:
        """Return the draw of the step that was launched last."""
        rows, watched, batch = len(logits), {}, self.held.batch
        if batch is not None and batch.constrained:
            requests = enumerate(batch.requests[:rows])
            watched = {row: one for row, one in requests if one.watch is not None}
        return Pace(self, rows, watched)

    def found(self, logits: Tensor, rows: np.ndarray, words: np.ndarray) -> TimedFound:
        """Return the scores of the step that was launched last; see `scoring.Found`."""
        return TimedFound(self, words)

    def draw(self, rows: int) -> np.ndarray:
        """Return the next words [rows] i32."""
        self._drawn = (self._drawn + 37 * rows) % DRAWS
        return self._words[self._drawn : self._drawn + rows].copy()

    def allowed(self, matcher: Any) -> int:
        """Return one of the tokens that a matcher allows now."""
        matcher.fill(self._mask, 0)
        found = self._allowed.get(key := self._mask.tobytes())
        if found is None:
            bits = np.unpackbits(self._mask.view(np.uint8)[0], bitorder="little")
            found = self._allowed[key] = np.flatnonzero(bits[: self.vocab_size])
        return int(found[self._words[self._drawn] % len(found)]) if len(found) else 0
