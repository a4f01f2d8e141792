"""How the oracle generates: one token after the other, each from the logits of all before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.constraints.tables import ConstraintTables, opening_of, stop_strings
from ..ir.constraints.token_table import TokenTable
from ..ir.core import Operation, Term
from ..ir.values import check_whole
from ..ir.vocabulary import Tokenizer, common_length
from .constraints.constraint import Constraints
from .constraints.heal import HealTable
from .constraints.stops import TokenBytes, canonical_ids, pattern_start
from .constraints.table_matcher import TableMatcher
from .constraints.whole import fits
from .execution.sampler import sample_rows, uniforms
from .programs.bindings import stops_of

Logits = Callable[[Sequence[int]], Tensor]
"""The model: logits [V] after a list of tokens."""

ConstraintOf = Callable[[Term, Mapping[str, Operation]], tuple[str, str] | None]


@dataclass(frozen=True)
class Opening:
    """What a gen's text begins with in any case, and the tokens that are left to draw."""

    text: str
    budget: int


class Drawing:
    """Draws the tokens of gens."""

    def __init__(
        self,
        records: Mapping[str, Operation],
        logits: Logits,
        tokenizer: Tokenizer,
        constraint_of: ConstraintOf,
    ) -> None:
        self._records = records
        self._logits = logits
        self._tokenizer = tokenizer
        self._constraint_of = constraint_of
        self._words = TokenBytes(tokenizer)
        self._tables = ConstraintTables(tokenizer)

    def opening(self, operation: Operation) -> Opening:
        """Return what the prompt takes over of a gen."""
        found = self._constraint_of(operation["type"], self._records)
        table = self._tables.find(*found, stop_strings(operation)) if found is not None else ""
        if not isinstance(table, TokenTable):
            return Opening("", operation["max_tokens"])
        text, count = opening_of(operation, table, self._tokenizer)
        return Opening(text, operation["max_tokens"] - count)

    def run(
        self, operation: Operation, ids: list[int], opening: Opening, heal: str, key: int
    ) -> tuple[list[int], list[float | None], bool]:
        """Return the tokens that stay in the stream after `ids`, their log-probabilities, and
        whether the budget ended them.

        What a constraint held is encoded canonically at last.
        """
        matcher = self._matcher(operation, heal, opening.text)
        drawn, logprobs, spent = self._draw_all(operation, ids, matcher, opening.budget, heal, key)
        if (problem := getattr(matcher, "problem", None)) is not None:
            raise problem
        new = drawn
        if self._constraint_of(operation["type"], self._records) is not None:
            new = canonical_ids(self._words, drawn)
        kept = logprobs[: common_length(drawn, new)]
        return new, kept + [None] * (len(new) - len(kept)), spent

    def check_whole(self, operation: Operation, text: str) -> None:
        """Raise UnreadableValue for a text that the budget has cut short."""
        found = self._constraint_of(operation["type"], self._records)
        if found is not None:
            check_whole(operation["type"], text, partial(fits, *found))

    def bytes(self, ids: list[int]) -> bytes:
        """Return the bytes of tokens."""
        return b"".join(self._tokenizer.token_bytes(id) for id in ids)

    def _draw_all(
        self, operation: Operation, ids: list[int], matcher: Any, budget: int, heal: str, key: int
    ) -> tuple[list[int], list[float | None], bool]:
        stops, skip = stops_of(operation), len(heal.encode())
        new: list[int] = []
        logprobs: list[float | None] = []
        forced: list[int] = []
        while len(new) < budget:
            if matcher is not None and not forced:
                forced = list(matcher.forced())
            if forced:
                token, logprob = forced.pop(0), None
            else:
                left = budget - len(new)
                token, logprob = self._draw(operation, [*ids, *new], matcher, key, len(new), left)
                if token in self._tokenizer.end_ids:
                    break
            new.append(token)
            logprobs.append(logprob)
            if matcher is not None:
                matcher.accept(token)
            at = _first_stop(stops, self.bytes(new)[skip:])
            if at is not None:
                cut = self._cut(new, skip + at)
                kept = logprobs[: common_length(new, cut)]
                return cut, kept + [None] * (len(cut) - len(kept)), False
            if matcher is not None and matcher.is_complete():
                break
        else:
            return new, logprobs, True
        return new, logprobs, False

    def _draw(
        self, operation: Operation, ids: list[int], matcher: Any, key: int, position: int, left: int
    ) -> tuple[int, float]:
        logits = self._logits(ids)[None].float()
        mask = None
        if matcher is not None:
            words = np.zeros((1, -(-logits.shape[1] // 32)), np.int32)
            if isinstance(matcher, TableMatcher):
                matcher.fill(words, 0, left)
            else:
                matcher.fill(words, 0)
            mask = torch.from_numpy(words)
        u = uniforms(np.array([key], np.uint64), np.array([position]))

        def option(name: str, default: float, dtype: torch.dtype = torch.float32) -> Tensor:
            value = operation.attribute(name)
            return torch.tensor([default if value is None else value], dtype=dtype)

        token, logprob, _ = sample_rows(
            logits, mask, option("temperature", 0.0), option("top_k", 0, torch.int32),
            option("top_p", 1.0), option("min_p", 0.0), torch.from_numpy(u),
        )  # fmt: skip
        return int(token[0]), float(logprob[0])

    def _matcher(self, operation: Operation, heal: str, opening: str) -> Any:
        found = self._constraint_of(operation["type"], self._records)
        size = len(self._logits([self._tokenizer.end_ids[0]]))
        if found is None:
            return HealTable(self._tokenizer, size).start(heal) if heal else None
        table = self._tables.find(*found, stop_strings(operation))
        constraints = Constraints(self._tokenizer, size)
        constraints.add("gen", *found, table if isinstance(table, TokenTable) else None)
        return constraints.start("gen", heal, opening)

    def _cut(self, new: list[int], at: int) -> list[int]:
        """Keep the text before byte `at`: whole tokens, then the rest encoded anew."""
        keep = 0
        while keep < len(new) and len(self.bytes(new[: keep + 1])) <= at:
            keep += 1
        rest = self.bytes(new)[len(self.bytes(new[:keep])) : at].decode("utf-8", "replace")
        return [*new[:keep], *(self._tokenizer.encode(rest) if rest else [])]


def _first_stop(stops: tuple[str, ...] | re.Pattern[str], data: bytes) -> int | None:
    if isinstance(stops, re.Pattern):
        return pattern_start(stops, data)
    return min((at for stop in stops if (at := data.find(stop.encode())) >= 0), default=None)
