"""Steps, policies and executors for the tests of partitioned models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from weft.compiler.offloading import Offloading
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.options import Options
from weft.tests.runtime.execution.steps_by_hand import step as any_step

MIB = 1 << 20
LIMITS = dict(max_batch=8, max_tokens=64, kv_memory=MIB, threads=1)
MIXED = tuple(map(Placement, ("rrrssscc", "cccccccc", "rrrrrrrr", "ssssssss", "rscsrscs")))
ON_DISK = tuple(map(Placement, ("rrdsdscc", "dddddddd", "rrrrrrrr", "ssssdddd", "rscdrscd")))
PROMPTS = ((17, 5, 99, 1200, 7), (3,), tuple(range(50, 59)), (4000, 1, 77), tuple(range(9, 20)))

step = partial(any_step, width=8)


def policy(schedule: str, layers=MIXED, micro_batches: int = 3, ring: int = 0) -> Policy:
    """A policy of tiny-moe; a ring of two layers unless told otherwise."""
    widest = max(len(layer.ringed) for layer in layers)
    ring = ring or (widest + 1 if schedule == "ring" else 2 * widest)
    attention = "gpu" if schedule == "s4" else "cpu"
    return Policy(8, -(-8 // micro_batches), attention, layers, 8, 1, ring, schedule=schedule,
                  page_format="f32")  # fmt: skip


class Cases:
    """Makes executors of tiny-moe; kernels are kept in a cache (None: the user's)."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        self.checkpoint = open_checkpoint("tiny-moe")
        self._kernels: dict[object, dict] = {}

    def offloading(self, chosen: Policy | None, gpu_memory: int = 64 * MIB, folder=None, **changes):
        options = Options(cache=self.cache, **LIMITS).changed(
            gpu_memory=gpu_memory, offload_policy=chosen, **changes
        )
        checkpoint = replace(self.checkpoint, folder=folder) if folder else self.checkpoint
        return Offloading(checkpoint, options)

    def executor(self, chosen: Policy | None, **rest):
        extra = {key: rest.pop(key) for key in ("device", "delay") if key in rest}
        made = self.offloading(chosen, **rest)
        return made.executor(made.kernels([]), **extra)


def greedy(executor, count: int = 5, prompts=PROMPTS) -> list[list[int]]:
    """Generate `count` tokens after each prompt, all prompts in one batch."""
    pages = [[2 * number, 2 * number + 1] for number in range(len(prompts))]
    made: list[list[int]] = [[] for _ in prompts]
    pending = [(list(prompt), 0, mine) for prompt, mine in zip(prompts, pages, strict=True)]
    for _ in range(count):
        best = executor.forward(step(*pending)).argmax(-1).tolist()
        for tokens, token in zip(made, best, strict=True):
            tokens.append(token)
        pending = [
            ([token], before + len(tokens), mine)
            for token, (tokens, before, mine) in zip(best, pending, strict=True)
        ]
    return made
