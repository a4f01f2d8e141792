"""Programs with and without constraints, made ready to run: what bench.constrained measures on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from weft.compiler import Compilation
from weft.ir.constraints.token_table import TokenTable
from weft.ir.parser import parse_module
from weft.options import Options
from weft.runtime.constraints.watch import Watch
from weft.runtime.executable import Executable
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.simulator import ToyExecutor

from ..contest.contest import FewerPages

RECORD = """
record Item:
    name: str(max_tokens=6)
    count: int(1..20)

record Order:
    customer: str(max_tokens=8)
    express: bool
    items: list[Item](max_items=2)
    channel: choice["shop", "web"]

program take(text: str) -> Order:
    user "Extract the order as JSON. {text}"
    assistant gen order(max_tokens=120): Order
    return order
"""
"""A record as programs have them: about half of its tokens are forced."""

FREE = """
program take(text: str) -> str:
    user "Extract the order as JSON. {text}"
    assistant gen words(max_tokens=TOKENS): TYPE
    return words
"""
"""The same prompt and as many tokens: TYPE is str, or a pattern that forces nothing."""

PATTERN = 'regex "[A-Za-z ,.]{1,600}"'

ROWS = 16


class Bench:
    """A model in memory, and executables of program texts on it."""

    def __init__(self, model: str = "tiny-dense", options: Options | None = None) -> None:
        self.model, self.options = model, options or Options.from_env()
        self._executor: Any = None
        self._sampler: Any = None
        self._policy: Any = None

    def take(self, executor: Any, sampler: Any, policy: Any) -> None:
        """Run on a model that is in memory already."""
        self._executor, self._sampler, self._policy = executor, sampler, policy

    @property
    def executor(self) -> Any:
        """The model in memory."""
        return self._executor

    def executable(
        self, text: str | Path, toy: bool = False, endless: bool = False, sides: int = 1
    ) -> Executable:
        """Compile a program; with `toy`, for a model of this vocabulary that costs nothing.

        With `endless`, no end token ends a gen: all its tokens come. Of several `sides` that run
        beside each other, each has its part of the pages.
        """
        compilation = Compilation(text, self.model, options=self.options)
        plan, tokenizer = compilation.plan, _checkpoint(compilation).tokenizer
        if toy:
            limits = {"num_pages": 4000, "page_size": 16, "context_length": 4096}
            executor: Any = ToyExecutor(tokenizer.size, max_batch=ROWS, max_tokens=512, **limits)
            sampler: Any = sample_rows
        else:
            if self._executor is None:
                self._executor, self._sampler = compilation.executor, compilation.sampler
            executor, sampler = self._executor, self._sampler
            if sides > 1:
                executor = FewerPages(executor, executor.num_pages // sides)
        if endless:
            plan = parse_module(re.sub(r"ends = \[[0-9, ]*\]", "ends = []", str(plan)))
        tables = compilation.context.tables
        known = tables.by_key if tables else {}
        if endless:
            known = {key: _endless(table, tokenizer.end_ids) for key, table in known.items()}
        return Executable(
            plan, compilation.program_name, executor, tokenizer, sample=sampler, tables=known,
            policy=None if toy else self._policy,
        )  # fmt: skip


def _endless(table: TokenTable, ends: tuple[int, ...]) -> TokenTable:
    masks = table.masks.copy().view(np.uint32)
    for end in ends:
        masks[:, end // 32] &= np.uint32(~(1 << end % 32) & 0xFFFFFFFF)
    return replace(table, masks=masks.view(np.int32))


def forced_share(executable: Executable) -> float:
    """Return the share of a run's generated tokens that were never sampled."""
    forced = 0
    plain = Watch.forced

    def counted(watch: Watch, limit: int) -> list[int]:
        nonlocal forced
        tokens = plain(watch, limit)
        forced += len(tokens)
        return tokens

    opening = opening_tokens(executable)
    Watch.forced = counted  # type: ignore[method-assign]
    try:
        stats = executable.run(text="Anna wants two lamps, please.").stats
    finally:
        Watch.forced = plain  # type: ignore[method-assign]
    return (forced + opening) / (stats.generated_tokens + opening)


def opening_tokens(executable: Executable) -> int:
    """Return how many tokens of a gen the compiler has moved into its prompt."""
    openings = [op["forced"] for op in executable.plan.walk() if op.attribute("forced")]
    return sum(len(executable.machine.tokenizer.encode(text)) for text in openings)


def _checkpoint(compilation: Compilation) -> Any:
    assert compilation.checkpoint is not None
    return compilation.checkpoint
