"""An engine over the toy model, what that model says by itself, and running to the end."""

from __future__ import annotations

from weft.runtime.engine import Engine
from weft.runtime.schedule.request import Request
from weft.runtime.simulator import ToyExecutor, toy_logits

VOCABULARY = 64


def generate(ids, count: int) -> list[int]:
    """Return tokens, and behind them the likeliest `count` more."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(toy_logits(ids, VOCABULARY).argmax()))
    return ids


def engine(**limits: int) -> Engine:
    """Return an engine of 200 pages, for four sequences, unless told otherwise."""
    limits = {"num_pages": 200, "max_batch": 4, "max_tokens": 16, **limits}
    return Engine(ToyExecutor(VOCABULARY, **limits))


def drain(engine: Engine) -> list[Request]:
    """Step until nothing is left to do, check the engine after each step; return who ended."""
    done: list[Request] = []
    while engine:
        done += engine.step()
        engine.check()
    return done
