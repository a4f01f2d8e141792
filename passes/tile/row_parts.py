"""How the tokens of a row are cut into parts, for the programs that score and select them."""

from __future__ import annotations

from ...ir.core import Value
from .builder import KernelBuilder

PARTS = "where(B <= 2, 32, 16)"
"""Programs that score a row's keys, by how many rows B there are."""

SHARES = "where(B <= 2, 32, where(B <= 8, 16, 8))"
"""Programs that select of a row's keys; each has some parts of `PARTS`."""


def parts_of(b: KernelBuilder, rows: Value, parts: str = PARTS) -> Value:
    """Return how many programs share a row's keys, for so many rows: the grid's extent."""
    return b.map(parts.replace("B", "a"), rows, dtype="i32", hint="parts")


class Middle:
    """The tokens of a row between its forced ends, and the pages of them that a part has."""

    def __init__(
        self, b: KernelBuilder, rows: Value, sinks: int, recent: int, page: int, length: Value,
        span: Value | None = None,
    ) -> None:  # fmt: skip
        self.b, self.rows, self.page, self.span = b, rows, page, span
        self.first = b.map(f"min(a, {sinks})", length, dtype="i32", hint="first")
        self.last = b.map(f"max(a - {recent}, b)", length, self.first, dtype="i32", hint="last")

    def part(self, part: Value, parts: str = PARTS) -> tuple[Value, Value]:
        """Return the pages [low, high) of a part: of pages that have a token of the middle. Rows of
        one `span` are cut at the same pages."""
        b, page = self.b, self.page
        pages = b.map(f"(a + {page - 1}) // {page}", self.last, dtype="i32", hint="pages")
        assert self.span is not None
        text = "(max(a, c) + b - 1) // b"
        each = b.map(text, pages, parts_of(b, self.rows), self.span, dtype="i32", hint="each")
        if parts != PARTS:
            text = "a * (b // c)"
            each = b.map(text, each, parts_of(b, self.rows), parts_of(b, self.rows, parts),
                         dtype="i32", hint="each")  # fmt: skip
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
