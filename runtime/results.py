"""What a run gives back: values, text, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stats:
    """The cost of one row, or of all rows of a run.

    `prompt_tokens` are those new to a stream; `sent_tokens` the full prompts of all model calls.
    Prefix hits are sent tokens that the model did not have to compute: as a cache without end
    would give them (predicted), and as the pages gave them (measured). See `runtime/meter.py`.
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
    margin: float = float("inf")
    """The smallest lead of a drawn token over the next one: near 0, other precision may differ."""

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
        parts += [
            f"prefix hits {self.hits_predicted} predicted, {self.hits_measured} measured",
            f"peak KV {self.peak_kv_pages} pages ({self.peak_kv_bytes / 2**20:.1f} MiB)",
        ]
        if self.deduplicated_tokens:
            parts.append(f"{self.deduplicated_tokens} of the new tokens computed for equal gens")
        if self.preemptions:
            parts.append(f"{self.preemptions} preemptions")
        return "; ".join(parts)


@dataclass(frozen=True)
class Result:
    """One row's outcome: what the program returned, what it bound, and what the model saw."""

    value: Any
    values: dict[str, Any]
    text: str
    stats: Stats
    row: int = 0


@dataclass(frozen=True)
class Rows:
    """All rows' outcomes: values in row order, errors by row, and the cost of what ran now."""

    values: list[Any]
    errors: dict[int, str]
    stats: Stats
    resumed: int = 0


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
