"""Packs examples into rows of one length and feeds them from worker processes."""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import random
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import tasks
from tokenizers import Tokenizer

ENGLISH_WEIGHT = 0.4
BEFORE_END = 9000  # tokens before the text's end that a row may begin at: more than a row has
LOOK_S = 10.0  # how often who waits for a batch looks whether the workers live
Row = tuple[np.ndarray, np.ndarray]  # ids, weights of the loss in percent


class Packer:
    """Makes rows; a document that does not fit gives way to English, so none is cut in two."""

    def __init__(self, tokenizer: str, english: Path, seed: int, focus: bool = False):
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.english = np.fromfile(english, np.uint16)
        begins = np.flatnonzero(self.english == tasks.BOS)
        self.starts = begins[begins < len(self.english) - BEFORE_END]
        self.rng = random.Random(seed)
        weights = {**tasks.WEIGHTS, **(tasks.FOCUS if focus else {})}
        self.names, self.shares = list(weights), list(weights.values())
        self.prose = 0.3 if focus else 0.2
        self.few = 0.6 if focus else 0.0

    def document(self, room: int, retrieval: bool) -> tuple[list[int], list[float]]:
        """One document, meant to fit into `room` tokens."""
        rng = self.rng
        if not retrieval:
            if rng.random() < 0.08:
                start = rng.randrange(len(self.english) - 100)
                piece = self.english[start : start + rng.randint(10, 80)].tolist()
                text = self.tokenizer.decode(piece).replace("\ufffd", "").strip()
                return tasks.encode(tasks.about_text(rng, text or "nothing"), self.tokenizer)
            name = rng.choices(self.names, self.shares)[0]
            return tasks.encode(tasks.vary(rng, tasks.CHAT_TASKS[name](rng)), self.tokenizer)
        size = room if rng.random() < 0.4 else int(
            math.exp(rng.uniform(math.log(60), math.log(max(61, room)))))
        size = int(size * 0.93)
        kind = rng.random()
        if kind < 0.66:
            return tasks.encode(tasks.retrieval(rng, tokens=size, few=self.few), self.tokenizer)
        if kind < 0.92:
            return tasks.encode_plain(tasks.recall(rng, size), self.tokenizer)
        return tasks.encode_plain(tasks.induct(rng, size), self.tokenizer)

    def row(self, length: int) -> Row:
        """One row of `length` + 1 tokens (inputs and targets overlap)."""
        length += 1
        rng, kind = self.rng, self.rng.random()
        ids, weights = np.zeros(length, np.uint16), np.zeros(length, np.uint8)
        at, misses = 0, 0
        english = kind < self.prose
        retrieval = kind > (0.62 if length < 2000 else 0.45)
        while not english and length - at > 40 and misses < 4:
            one, weight = self.document(length - at, retrieval)
            if len(one) > length - at:
                misses += 1
                continue
            ids[at : at + len(one)] = one
            weights[at : at + len(one)] = np.array(weight) * 100
            at += len(one)
        if at < length:
            start = rng.randrange(len(self.english) - length)
            if rng.random() < 0.5:  # from a document's beginning
                start = int(rng.choice(self.starts))
            ids[at:] = self.english[start : start + length - at]
            weights[at:] = int(100 * ENGLISH_WEIGHT)
            weights[at] = 0
        return ids, weights

    def batch(self, tokens: int, length: int) -> Row:
        """`tokens` // `length` rows."""
        rows = [self.row(length) for _ in range(tokens // length)]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows])


def work(queue: Any, length: Any, tokens: int, tokenizer: str, english: Path, focus: bool,
         seed: int) -> None:
    """A worker's loop: batches of the present length, for ever."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    packer = Packer(tokenizer, english, seed, focus)
    while True:
        queue.put(packer.batch(tokens, length.value))


class Feed:
    """Batches from `workers` processes; `length` may be set at any time."""

    def __init__(self, workers: int, tokens: int, length: int, tokenizer: str, english: Path,
                 seed: int, focus: bool = False):
        context = mp.get_context("spawn")
        self.queue, self.length = context.Queue(48), context.Value("i", length)
        args = (self.queue, self.length, tokens, tokenizer, english, focus)
        self.workers = [context.Process(target=work, args=(*args, seed * 1000 + i), daemon=True)
                        for i in range(workers)]
        for worker in self.workers:
            worker.start()

    def batch(self) -> Row:
        """The next batch; a worker that has ended ends the training, which would wait for ever."""
        while True:
            try:
                return self.queue.get(timeout=LOOK_S)
            except Empty:
                ended = [w.exitcode for w in self.workers if w.exitcode is not None]
                if ended:
                    raise SystemExit(f"a worker has ended with exit code {ended[0]}") from None

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.terminate()


def examples(seed: int, each: int, tokenizer: Tokenizer,
             names: list[str] | None = None) -> list[tuple[str, list[int], list[float]]]:
    """Held-out examples: (task, ids, weights)."""
    out = []
    for name in names or list(tasks.CHAT_TASKS):
        rng = random.Random(f"{seed}:{name}")
        for _ in range(each):
            out.append((name, *tasks.encode(tasks.CHAT_TASKS[name](rng, held=True), tokenizer)))
    return out


def answers(ids: list[int], weights: list[float]) -> list[list[int]]:
    """The positions that carry loss, one list an assistant turn (literal parts left out)."""
    turns: list[list[int]] = [[]]
    for i, (token, weight) in enumerate(zip(ids, weights, strict=True)):
        if weight:
            turns[-1].append(i)
        if token == tasks.END and turns[-1]:
            turns.append([])
    return [t for t in turns if t]
