"""How the tokens of a row are cut into parts, for the programs that score and select them."""

from __future__ import annotations

from ....ir.core import Value
from ....ir.sparse.policy import FEW_PAIRS, LEAST_HEADS
from ..builder import KernelBuilder

PARTS = f"where(P <= {FEW_PAIRS}, 32, where(P <= 512, 16, 4))"
"""Programs that score a row's keys, by how many pairs P of a row and a key head there are. Each
begins with its queries, and with a tail sums up what heads weigh, so that of many pairs few share a
row: of 1,024 pairs of 16 K tokens a layer takes 335 us of an H200 with a tail in place of 477 with
16 (402 with 8), and without one 232.8 in place of 234.2 (233.4)."""

LEAST_PARTS = {"few": 32, "many": 4, "": 4}
"""The fewest of them where pairs are few, many, or any."""

SHARES = (
    f"where(P <= {FEW_PAIRS}, 32, where(P <= 64, 16, where(P <= 256, 8, where(P <= 512, 4, 2))))"
)
"""Programs that select of a row's keys; each has some parts of `PARTS`. Each works out where the
selection ends, so that of many pairs, which are many programs anyway, few share one."""


MOST_OF_MANY = 16
"""The most of either where pairs are not few."""


def extent(parts: str, kv_heads: int, pairs: str = "") -> str:
    """Return the extent of a grid over parts, of B rows; 0 where pairs are not `few`, or `many`, as
    kernels for these alone have no programs there."""
    least = {"few": f"where(P <= {FEW_PAIRS}, {parts}, 0)",
             "many": f"where(P <= {FEW_PAIRS}, 0, {parts})"}.get(pairs, parts)  # fmt: skip
    return least.replace("P", f"B * {max(kv_heads, LEAST_HEADS)}")


def parts_of(b: KernelBuilder, rows: Value, kv_heads: int, parts: str = PARTS) -> Value:
    """Return how many programs share a row's keys, for so many rows: the grid's extent."""
    text = parts.replace("P", f"a * {max(kv_heads, LEAST_HEADS)}")
    return b.map(text, rows, dtype="i32", hint="parts")


class Middle:
    """The tokens of a row between its forced ends, and the pages of them that a part has."""

    def __init__(
        self, b: KernelBuilder, rows: Value, kv_heads: int, sinks: int, recent: int, page: int,
        length: Value, span: Value,
    ) -> None:  # fmt: skip
        self.b, self.rows, self.page, self.span, self.kv_heads = b, rows, page, span, kv_heads
        self.first = b.map(f"min(a, {sinks})", length, dtype="i32", hint="first")
        self.last = b.map(f"max(a - {recent}, b)", length, self.first, dtype="i32", hint="last")

    def part(self, part: Value, parts: str = PARTS) -> tuple[Value, Value]:
        """Return the pages [low, high) of a part: of pages that have a token of the middle. Rows of
        one `span` are cut at the same pages."""
        b, page = self.b, self.page
        pages = b.map(f"(a + {page - 1}) // {page}", self.last, dtype="i32", hint="pages")
        text = "(max(a, c) + b - 1) // b"
        many = parts_of(b, self.rows, self.kv_heads)
        each = b.map(text, pages, many, self.span, dtype="i32", hint="each")
        if parts != PARTS:
            few = parts_of(b, self.rows, self.kv_heads, parts)
            each = b.map("a * (b // c)", each, many, few, dtype="i32", hint="each")
        low = b.map("min(a * b, c)", part, each, pages, dtype="i32", hint="low")
        return low, b.map("min(a + b, c)", low, each, pages, dtype="i32", hint="high")

    def inside(self, number: Value, offset: Value, end: Value) -> Value:
        """Return which of some tokens, by page and place in it, are of the middle, and of pages
        before `end`."""
        b = self.b
        unit = b.map(f"a * {self.page} + b", number, offset, dtype="i32", hint="unit")
        last = b.map(f"min(a, b * {self.page})", self.last, end, dtype="i32", hint="last")
        text = "(a >= b) & (a < c)"
        return b.map(text, unit, self.first, last, dtype="bool", hint="inside")
