"""The kernel that keeps sums of v: of each page that a step fills, the sum of v from the start of
the sequence to the page's end. A page holds one place of one prefix, so sharers share the sum."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ..builder import KernelBuilder


@dataclass(frozen=True)
class ValueSums:
    """The static shape; `kv` is the dtype of v. `flat`: pages lie one after another, as a work list
    has them, and the host has counted those that a step fills."""

    kv_heads: int
    head_dim: int
    page: int
    kv: str = "f32"
    flat: bool = False

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        flat = "_flat" * self.flat
        return f"value_sums_{self.kv_heads}_{self.head_dim}_{self.page}_{self.kv}{flat}"


def value_sums(shape: ValueSums) -> Operation:
    """Return the kernel; a program fills the pages of one key head of one sequence, in order.

    Arguments: T, B, B1 = B + 1, N, MAXP, query_starts [B1], kv_lengths [B], page_table [B, MAXP],
    v [N, K, P, C], value_sums [N, K, C] f32. Flat: N, E, F, fill_entry, fill_count, fill_before [F]
    (of each sequence the first entry in `pages` that it fills, how many, and the entry before
    them, or -1), pages [E], v, value_sums.
    """
    return _Sums(shape).kernel()


class _Sums:
    def __init__(self, shape: ValueSums) -> None:
        self.shape = s = shape
        b = self.b = KernelBuilder(s.name)
        for extent in ("N", "E", "F") if s.flat else ("T", "B", "B1", "N", "MAXP"):
            b.scalar(extent)
        if s.flat:
            self.fill = [b.buffer(f"fill_{n}", "i32", "F") for n in ("entry", "count", "before")]
            self.pages = b.buffer("pages", "i32", "E")
        else:
            self.starts = b.buffer("query_starts", "i32", "B1")
            self.lengths = b.buffer("kv_lengths", "i32", "B")
            self.pages = b.buffer("page_table", "i32", "B", "MAXP")
        self.v = b.buffer("v", s.kv, "N", s.kv_heads, s.page, s.head_dim)
        self.sums = b.buffer("value_sums", "f32", "N", s.kv_heads, s.head_dim)

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        first, end, before = self._counted() if s.flat else self._range()
        channel, offset = b.iota(s.head_dim), b.expand(b.iota(s.page), 1)
        some = b.map("(a >= 0) & (b < c)", before, first, end, dtype="bool", hint="some")
        page = self._page(b.map("max(a, 0)", before, dtype="i32", hint="before"), some)
        start = b.load(self.sums, page, head, channel, mask=some, hint="start")
        with b.loop(first, end, start, hint="filled") as loop:
            page = self._page(loop.index, None)
            rows = b.load(self.v, page, head, offset, b.expand(channel, 0), dtype="f32")
            total = b.map("a + b", loop.carried[0], b.reduce("sum", rows, 0), hint="total")
            b.store(self.sums, page, head, channel, total)
            loop.yields(total)
        return b.finish(s.kv_heads, "F" if s.flat else "B", requires=self._facts(),
                        of="graph.value_sums")  # fmt: skip

    def _facts(self) -> tuple[str, ...]:
        if self.shape.flat:
            return ("N >= 1", "F >= 0", "0 <= pages[*] < N", "0 <= fill_entry[*]",
                    "0 <= fill_count[*]", "-1 <= fill_before[*] < E",
                    "fill_entry[i] + fill_count[i] <= E")  # fmt: skip
        return ("B >= 0", "N >= 1", "T >= 0", "B1 == B + 1", "MAXP >= 0", "0 <= page_table[*] < N",
                "0 <= query_starts[*] <= T",
                f"0 <= kv_lengths[*] <= MAXP * {self.shape.page}")  # fmt: skip

    def _counted(self) -> tuple[Value, Value, Value]:
        """Return the entries to fill, and the one before them or -1."""
        b = self.b
        entry, count, before = (b.load(x, self.sequence, hint=x.name) for x in self.fill)
        return entry, b.map("a + b", entry, count, dtype="i32", hint="end"), before

    def _range(self) -> tuple[Value, Value, Value]:
        """Return the same of a row of the page table: pages that the step's last token is past, and
        its first is not."""
        b, page = self.b, self.shape.page
        length = b.load(self.lengths, self.sequence, hint="length")
        start = b.load(self.starts, self.sequence, hint="start")
        after = b.load(self.starts, b.map("a + 1", self.sequence), hint="after")
        text = f"max(a - (b - c), 0) // {page}"
        first = b.map(text, length, after, start, dtype="i32", hint="first")
        end = b.map(f"a // {page}", length, dtype="i32", hint="end")
        return first, end, b.map("a - 1", first, dtype="i32", hint="before")

    def _page(self, index: Value, mask: Value | None) -> Value:
        row = () if self.shape.flat else (self.sequence,)
        return self.b.load(self.pages, *row, index, mask=mask, hint="page_id")
