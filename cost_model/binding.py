"""What a price depends on besides the operation: a step's sizes and the formats of its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ..ir.diagnostics import WeftNameError
from ..ir.offload.page_formats import PAGE_FORMATS
from ..ir.types import DTYPE_BYTES, Dim


class UnboundDimension(WeftNameError):
    """A symbolic dimension, a data type or a format that a price was asked for without its size."""

    template = "no size is known for {what} {name!r}"
    hint = "known: {known}"


@dataclass(frozen=True)
class Binding:
    """One step: the tokens that each sequence feeds, the keys that each has after its writes.

    `rows` is R, the rows that logits are wanted for (default: one a sequence). `dims` gives other
    symbols. `experts` is the number of distinct experts that a layer touches, if it is known.
    """

    query_lengths: tuple[int, ...]
    kv_lengths: tuple[int, ...]
    rows: int | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    experts: float | None = None

    @property
    def tokens(self) -> int:
        """T: the tokens that the step feeds."""
        return sum(self.query_lengths)

    @property
    def sequences(self) -> int:
        """B: the sequences of the step."""
        return len(self.query_lengths)

    def size(self, dim: Dim) -> int:
        """Return the size of a dimension: a number, T, B, R, or a symbol of `dims`."""
        if isinstance(dim, int):
            return dim
        known = self.known()
        if dim.name in known:
            return known[dim.name]
        names = ", ".join(sorted(known))
        raise UnboundDimension(what="dimension", name=dim.name, known=names)

    def known(self) -> dict[str, int]:
        """Return the sizes of all symbols; MAXP supposes pages of 16 tokens."""
        sequences = self.sequences
        return {
            "T": self.tokens,
            "B": sequences,
            "B1": sequences + 1,
            "R": sequences if self.rows is None else self.rows,
            "MAXP": -(-max(self.kv_lengths, default=0) // 16),
            **self.dims,
        }

    def elements(self, shape: tuple[Dim, ...]) -> int:
        """Return the product of the sizes of dimensions."""
        product = 1
        for dim in shape:
            product *= self.size(dim)
        return product

    def with_dims(self, **dims: int) -> Binding:
        """Return a copy that knows more symbols."""
        return replace(self, dims={**self.dims, **dims})


def decode(batch: int, context: int) -> Binding:
    """Return a decode step: one token for each of `batch` sequences that then hold `context`."""
    return Binding((1,) * batch, (context,) * batch)


def prefill(tokens: int, prefix: int = 0, batch: int = 1) -> Binding:
    """Return a prefill step: `tokens` new ones after a cached `prefix`, for `batch` sequences."""
    return Binding((tokens,) * batch, (prefix + tokens,) * batch)


@dataclass(frozen=True)
class Formats:
    """How bytes are stored where types do not say: KV elements, and weights when overridden.

    `weight` names a format of `WEIGHT_FORMATS`; None keeps each weight's own element type.
    """

    kv: str = "f32"
    weight: str | None = None


WEIGHT_FORMATS: dict[str, tuple[float, float]] = {
    **{dtype: (float(size), 0.0) for dtype, size in DTYPE_BYTES.items()},
    "i8": (1.0, 4.0),
    "f8e4m3": (1.0, 4.0),
    **{name: (format.element, format.row) for name, format in PAGE_FORMATS.items()},
}
"""Bytes an element and bytes a row."""


def weight_bytes(rows: float, columns: float, format: str) -> float:
    """Return the bytes of a [rows, columns] weight in a format."""
    if format not in WEIGHT_FORMATS:
        known = ", ".join(WEIGHT_FORMATS)
        raise UnboundDimension(what="weight format", name=format, known=known)
    element, row = WEIGHT_FORMATS[format]
    return rows * columns * element + rows * row


@dataclass(frozen=True)
class Span:
    """What part of a sequence's keys a kvset holds: positions low <= p < high, a sliding window."""

    window: int | None = None
    low: int = 0
    high: int | None = None
    causal: bool = True

    def visible(self, queries: int, keys: int) -> tuple[int, int]:
        """Return (query, key) pairs that attend, and distinct keys read, of one sequence."""
        return _visible(self, queries, keys)


@lru_cache(maxsize=4096)
def _visible(span: Span, queries: int, keys: int) -> tuple[int, int]:
    end = keys if span.high is None else min(span.high, keys)
    pairs, first, last = 0, keys, 0
    for position in range(keys - queries, keys):
        stop = min(end, position + 1) if span.causal else end
        start = span.low if span.window is None else max(span.low, position + 1 - span.window)
        if stop > start:
            pairs += stop - start
            first, last = min(first, start), max(last, stop)
    return pairs, max(0, last - first)
