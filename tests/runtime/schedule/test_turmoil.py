"""Requests of all kinds at once, cancelled, forked and failed at random: all get their answers.

Each is to be answered once and as if it were alone, whatever the machine's room, whether steps are
launched ahead or not, and whether prompts share within a step.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch
from weft.runtime.engine import Engine
from weft.runtime.memory.sequence import Sequence
from weft.runtime.schedule import flight
from weft.runtime.schedule.policy import Policy
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import ToyExecutor, toy_logits
from weft.tests.each_time import each_time
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler

WORDS = 64
MOST_STEPS = 1000


class Failed(Exception):
    """A step that did not come to its end."""


@cache
def after(ids: tuple[int, ...]) -> torch.Tensor:
    """Return the log-probabilities of all words after some tokens."""
    return torch.log_softmax(toy_logits(ids, WORDS), 0)


def continued(ids: list[int], count: int) -> list[int]:
    """Return tokens with those that follow greedily."""
    for _ in range(count):
        ids = [*ids, int(after(tuple(ids)).argmax())]
    return ids


class Turmoil:
    """An engine of random size with random requests, which are all answered after `run`."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        page, room = dice.choice([1, 2, 3, 8]), dice.choice([40, 64, 300])
        rows = dice.choice([2, 8])
        limits = {"num_pages": -(-room // page), "page_size": page, "max_batch": rows,
                  "max_tokens": max(rows, dice.choice([6, 9, 64]))}  # fmt: skip
        ahead, policy = dice.random() < 0.7, Policy(least_gain=dice.choice([1, 4, 100]))
        executor = (AheadExecutor if ahead else ToyExecutor)(WORDS, **limits)
        executor.copies_slots = dice.random() < 0.8
        executor.max_logits = rows * dice.choice([1, 4])
        sample = (AheadSampler(executor),) if isinstance(executor, AheadExecutor) else ()
        self.engine = Engine(executor, *sample, policy=policy)
        self.longest = room // 2 - 2
        self.answered: set[Request] = set()
        self._forward, self._failing = executor.forward, dice.choice([0.0, 0.15])
        executor.forward = self._may_fail
        self._asked: dict[Request, tuple[list[int], int]] = {}
        self._too_late: set[Request] = set()
        self._idle: list[Sequence] = []
        self._rows = 0

    def _may_fail(self, *given):
        """Run a step; perhaps fail before it has computed anything, or behind it."""
        if self.dice.random() < self._failing:
            raise Failed
        logits = self._forward(*given)
        if self.dice.random() < self._failing:
            raise Failed
        return logits

    def run(self) -> None:
        """Ask, cancel and step in turn until nothing is left."""
        left, steps, eager = self.dice.randint(6, 40), 0, self.dice.choice([0.5, 0.9])
        while left or self._asked:
            while left and self.dice.random() < eager:
                left, steps = left - 1, 0
                self._ask()
            if left and self._asked and self.dice.random() < 0.1:
                self._cancel()
            self._step()
            steps += 1
            assert steps < MOST_STEPS, "nobody goes on"
        for sequence in self._idle:
            self.engine.free(sequence)
        self.engine.check()

    def _stream(self) -> Sequence:
        """Return a stream that begins as others do, an answered one, or a fork of such a one."""
        self._rows += 1
        kind = self.dice.random() if self._idle else 1.0
        if kind > 0.35:
            sequence = self.engine.create((self._rows, 0))
            sequence.append([*range(self.dice.randint(0, 9))])
            return sequence
        number = self.dice.randrange(len(self._idle))
        if kind > 0.2:
            return self._idle.pop(number)
        parent = self._idle[number]
        child = self.engine.fork(parent, self.dice.randint(1, parent.length), (self._rows, 0))
        if self.dice.random() < 0.3:
            self.engine.free(self._idle.pop(number))
        return child

    def _ask(self) -> None:
        sequence, dice = self._stream(), self.dice
        sequence.append([dice.randint(0, 1) for _ in range(dice.randint(1, 9))])
        if sequence.length > self.longest:
            return self.engine.free(sequence)
        ids, kind = sequence.ids(), dice.choice(["gen", "gen", "fill", "score", "score"])
        new = min(dice.randint(1, 6), self.longest + 2 - len(ids)) if kind == "gen" else 0
        request = Request(sequence, kind, Sampling(new) if new else None, row=self._rows,
                          critical=dice.choice([0, 20, 50]))  # fmt: skip
        if kind == "gen" and dice.random() < 0.3:
            request.same = "all"
        if kind == "score":
            request.score_from = dice.randrange(len(ids))
            request.asked = [tuple(dice.sample(range(WORDS), dice.randint(0, 2)))
                             for _ in ids[request.score_from :]]  # fmt: skip
        self._asked[request] = ids, new
        self.engine.submit(request)

    def _cancel(self) -> None:
        request = self.dice.choice([*self._asked])
        del self._asked[request]
        if request in self.engine._scheduler.done:  # a failed step has left it there
            self._too_late.add(request)
        self.engine.cancel(request)
        self.engine.free(request.sequence)
        self.engine.check()

    def _step(self) -> None:
        try:
            done = self.engine.step()
        except Failed:
            done = []
        self.engine.check()
        for request in done:
            if request not in self._too_late:
                self._look(request)

    def _look(self, request: Request) -> None:
        ids, new = self._asked.pop(request)  # which are there once
        assert request.error is None
        assert request.sequence.ids() == continued(ids, new)
        if request.score_from is not None:
            ends = range(request.score_from + 1, len(ids) + 1)
            assert request.scores == [
                {word: float(after(tuple(ids[:end]))[word]) for word in words}
                for end, words in zip(ends, request.asked, strict=True)
            ]
        self.answered.add(request)
        if self.dice.random() < 0.6:
            self._idle.append(request.sequence)
        else:
            self.engine.free(request.sequence)
        while len(self._idle) > 3:
            self.engine.free(self._idle.pop(0))


@pytest.mark.parametrize("seed", each_time(range(60), *range(24)))
def test_all_are_answered_once_and_as_if_alone(seed, monkeypatch):
    monkeypatch.setattr(flight, "FOLLOWS", (1, 1 << 20)[seed % 2])
    turmoil = Turmoil(seed)
    turmoil.run()
    assert turmoil.answered
