"""What a run gives back: values, text, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from operator import add, attrgetter
from typing import Any

from ..ir.display.units import bytes_text, seconds_text
from ..ir.display.view import Block, Facts, Grid, Listing, Shown, View

MOST_ROWS = 50
"""Of the rows of a batch: those that are shown."""


@dataclass(frozen=True)
class Stats(Shown):
    """The cost of one row, or of all rows of a run.

    `prompt_tokens` are those new to a stream; `sent_tokens` the full prompts of all model calls.
    Prefix hits are sent tokens that the model did not have to compute: as a cache without end
    would give them (predicted), and as the pages gave them (measured). See
    `runtime/schedule/row_costs.py`.
    """

    rows: int = 1
    seconds: float = 0.0
    first_token_seconds: float | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    deduplicated_tokens: int = 0
    """Of the generated ones: those that an equal gen had computed."""
    sent_tokens: int = 0
    hits_predicted: int = 0
    hits_measured: int = 0
    peak_kv_pages: int = 0
    peak_kv_bytes: int = 0
    preemptions: int = 0
    steps: int = 0
    """Steps of the engine, or calls of an endpoint. With tools the engine's depend on when these
    answer: what waits for one misses the steps that others take together."""
    margin: float = float("inf")
    """The smallest lead of a drawn token over the next one: near 0, other precision may differ."""

    @property
    def own_tokens(self) -> int:
        """Tokens that no call before had computed: what a row adds to a cache that forgets none."""
        sent = self.sent_tokens - self.hits_predicted
        return max(0, sent + self.generated_tokens - self.deduplicated_tokens)

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        first = self.first_token_seconds
        parts = [
            f"{self.rows} row{'s' * (self.rows != 1)} in {self.seconds:.2f} s",
            f"{self.prompt_tokens} prompt and {self.generated_tokens} new tokens",
            f"{self.tokens_per_second:.1f} tokens/s",
        ]
        if first is not None:
            parts.append(f"first token after {1000 * first:.0f} ms")
        if self.peak_kv_pages:  # of an endpoint's memory nothing is known
            parts += [
                f"prefix hits {self.hits_predicted} predicted, {self.hits_measured} measured",
                f"peak KV {self.peak_kv_pages} pages ({self.peak_kv_bytes / 2**20:.1f} MiB)",
            ]
        if self.deduplicated_tokens:
            parts.append(f"{self.deduplicated_tokens} of the new tokens computed for equal gens")
        if self.preemptions:
            parts.append(f"{self.preemptions} preemptions")
        return "; ".join(parts)

    def facts(self) -> Facts:
        """Return the figures under their names."""
        first = self.first_token_seconds
        pairs = [("time", seconds_text(self.seconds))]
        pairs += [("first token", seconds_text(first))] if first is not None else []
        pairs += [
            ("tokens", f"{self.prompt_tokens:,} prompt, {self.generated_tokens:,} new"),
            ("speed", f"{self.tokens_per_second:,.1f} tokens/s"),
        ]
        if self.peak_kv_pages:
            hits = f"{self.hits_predicted:,} predicted, {self.hits_measured:,} measured"
            memory = f"{self.peak_kv_pages:,} pages, {bytes_text(self.peak_kv_bytes)}"
            pairs += [("prefix hits", hits), ("peak KV", memory)]
        pairs += [("preemptions", f"{self.preemptions:,}")] if self.preemptions else []
        return Facts(tuple(pairs))

    def view(self) -> View:
        """Return the figures."""
        return View("cost", f"{self.rows} row{'s' * (self.rows != 1)}", (self.facts(),))


SUMMED = (
    "rows", "prompt_tokens", "generated_tokens", "deduplicated_tokens", "sent_tokens",
    "hits_predicted", "hits_measured",
)  # fmt: skip
"""What all rows of a run cost is the sum of what each does."""

_summed = attrgetter(*SUMMED)


class Totals:
    """What rows cost together; a record of it is made once, not for each row that ends."""

    def __init__(self) -> None:
        self._sums = [0] * len(SUMMED)
        self._first, self._margin = inf, inf
        self._pages = self._bytes = 0

    def add(self, stats: Stats) -> None:
        """Add the cost of a row."""
        self._sums = [*map(add, self._sums, _summed(stats))]
        if stats.first_token_seconds is not None:
            self._first = min(self._first, stats.first_token_seconds)
        self._pages = max(self._pages, stats.peak_kv_pages)
        self._bytes = max(self._bytes, stats.peak_kv_bytes)
        self._margin = min(self._margin, stats.margin)

    @property
    def generated_tokens(self) -> int:
        """Tokens that the rows have generated."""
        return self._sums[SUMMED.index("generated_tokens")]

    def stats(self, seconds: float, steps: int, preemptions: int) -> Stats:
        """Return the cost of a run."""
        return Stats(
            **dict(zip(SUMMED, self._sums, strict=True)), seconds=seconds, steps=steps,
            first_token_seconds=None if self._first == inf else self._first,
            peak_kv_pages=self._pages, peak_kv_bytes=self._bytes, preemptions=preemptions,
            margin=self._margin,
        )  # fmt: skip


@dataclass(frozen=True)
class Result(Shown):
    """One row's outcome: what the program returned, what it bound, and what the model saw.

    `seen` gives that as text; it is asked once, when somebody wants to know.
    """

    value: Any
    values: dict[str, Any]
    seen: Callable[[], str] = field(repr=False, compare=False)
    stats: Stats
    row: int = 0

    @cached_property
    def text(self) -> str:
        """What the model saw and said on the program's stream; not what the program appends behind
        the last call, unless the model is behind an endpoint."""
        return self.seen()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "seen": str, "text": self.text}

    def view(self) -> View:
        """Return the value, what was bound on the way, the text, and the cost."""
        bound = tuple((name, _short(value)) for name, value in self.values.items())
        blocks: list[Block] = [Listing(_short(self.value, 4000), "text"), self.stats.facts()]
        blocks += [Grid(("bound", "value"), bound)] if bound else []
        text = Listing(self.text, "text", "what the model saw and said", folded=True)
        return View("result", f"row {self.row}", (*blocks, text))


@dataclass(frozen=True)
class Rows(Shown):
    """All rows' outcomes: values in row order, errors by row, and the cost of what ran now."""

    values: list[Any]
    errors: dict[int, str]
    stats: Stats
    resumed: int = 0

    def __iter__(self) -> Iterator[Any]:
        """Yield the values in row order, None for a row that failed."""
        return iter(self.values)

    def view(self) -> View:
        """Return the first values, the errors, and the cost."""
        shown = [
            (str(row), f"failed: {self.errors[row]}" if row in self.errors else _short(value))
            for row, value in enumerate(self.values[:MOST_ROWS])
        ]
        left = len(self.values) - len(shown)
        title = f"{len(self.values)} rows" + (f", the first {len(shown)} shown" if left else "")
        return View("results", title, (self.stats.facts(), Grid(("row", "value"), tuple(shown))))


@dataclass
class Progress:
    """How far a run of many rows is; handed to the `progress` callback."""

    total: int | None = None
    done: int = 0
    failed: int = 0
    resumed: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    last_row: int | None = field(default=None)


def _short(value: Any, most: int = 300) -> str:
    """Return a value as text for a person, cut at `most` letters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else f"{text[:most]} ... {len(text) - most} more letters"
