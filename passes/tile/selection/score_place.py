"""Where the sparse kernels find a sequence's pages, and where they keep its scores and choices."""

from __future__ import annotations

from ....ir.core import Value
from ..builder import KernelBuilder


class Place:
    """Where a sequence's pages and its rows of scores lie: in a table and in [B, K, L], or flat, in
    a list of pages and in [K, C]. Declares the buffers that say so."""

    def __init__(self, b: KernelBuilder, flat: bool, page: int, pages: bool = True) -> None:
        self.b, self.flat, self.size = b, flat, page
        if flat:
            self.pages = b.buffer("pages", "i32", "E") if pages else None
            self.first = b.buffer("row_page", "i32", "B") if pages else None
            self.base = b.buffer("base", "i32", "B")
        elif pages:
            self.table = b.buffer("page_table", "i32", "B", "MAXP")
        lengths = f"0 <= kv_lengths[*] <= {f'MAXP * {page}' if pages else 'L'}"
        table = ("MAXP >= 0", f"L == MAXP * {page}", "0 <= page_table[*] < N") if pages else ()
        whole = f"(kv_lengths[i] + {page - 1}) // {page}"
        self.facts = (*table, lengths)
        if flat:
            of_pages = ("0 <= pages[*] < N", "0 <= row_page[*]", f"row_page[i] + {whole} <= E")
            self.facts = (*(of_pages if pages else ()), "0 <= kv_lengths[*]", "0 <= base[*]",
                          f"base[i] + {whole} * {page} <= C")  # fmt: skip

    def buffer(self, name: str, dtype: str, kv_heads: int) -> Value:
        """Declare a buffer with a value a token."""
        dims = (kv_heads, "C") if self.flat else ("B", kv_heads, "L")
        return self.b.buffer(name, dtype, *dims)

    def enter(self, head: Value, sequence: Value) -> None:
        """Say whose program it is."""
        self.head, self.sequence = head, sequence
        if self.flat:
            self.start = self.b.load(self.base, sequence, hint="base")
        if self.flat and self.first is not None:
            self.entry = self.b.load(self.first, sequence, hint="row_page")

    def page(self, index: Value) -> Value:
        """Return a page of the sequence."""
        b = self.b
        if not self.flat:
            return b.load(self.table, self.sequence, index, hint="page_id")
        assert self.pages is not None
        return b.load(self.pages, b.map("a + b", self.entry, index, dtype="i32"), hint="page_id")

    def at(self, unit: Value) -> tuple[Value, ...]:
        """Return the indices of a token or page in a buffer of the sequence."""
        if not self.flat:
            return self.sequence, self.head, unit
        return self.head, self.b.map("a + b", self.start, unit, dtype="i32", hint="at")
