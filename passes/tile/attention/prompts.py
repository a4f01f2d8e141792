"""Attention of prompts: consecutive rows of one sequence over all keys in front of them.

An item is a tile of such rows. What a row sees follows from the first one's keys, so a program
reads four numbers and no lists of rows, and finishes its rows: no states, no join. Keys that all
rows of a tile see need no mask; those of the last blocks are masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from .parts import Parts, PartsBuilder
from .tile_rows import Lanes

PROMPT = "prompt"
"""Which items the kernel reads, as the attribute `items` of tile kernels says it."""

LISTS = ("query", "rows", "page", "limit")
"""What is known of an item: its first query and how many, its first entry in the page table, and
how many keys its first query sees. Kernels and lists name them prompt_query, ..."""


def attention_prompts(shape: Parts) -> Operation:
    """Return the kernel of prompts' tiles of `shape.rows_many` rows, `shape.keys_many` keys at a
    time.

    Arguments: T, N, P items, E page entries; q [T, H * C]; prompt_query, prompt_rows, prompt_page,
    prompt_limit [P], of which row i of an item sees limit + i keys (an item of no rows
    and limit 0 is none); pages [E]; k, v [N, K, P, C];
    out [T, H * C].
    """
    s = shape
    name = f"attention_prompts_{s.heads}_{s.kv_heads}_{s.head_dim}_{s.page}_{s.q}_{s.kv}"
    name += f"_{s.many}x{s.keys_many}" + (f"_{s.way}" if s.way else "")
    return _Prompts(shape, name).kernel()


@dataclass(frozen=True)
class _Rows:
    """The rows of a tile: each lane's query, its head, whether it is one, and the keys it sees."""

    query: Value
    lanes: Lanes
    live: Value
    end: Value


class _Prompts(PartsBuilder):
    def declare(self) -> None:
        s, b = self.shape, self.b
        for extent in ("T", "N", "P", "E"):
            value = b.scalar(extent)
            self.tokens = value if extent == "T" else self.tokens
        self.q = b.buffer("q", s.q, "T", s.heads * s.head_dim)
        self.items = [b.buffer(f"prompt_{name}", "i32", "P") for name in LISTS]
        self.table = b.buffer("pages", "i32", "E")
        self.declare_pools()
        self.out = b.buffer("out", s.q, "T", s.heads * s.head_dim)

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        self.kv_head, item = b.program_id(0, "kv_head"), b.program_id(1, "item")
        first, count, self.base, limit = (
            b.load(buffer, item, hint=name) for buffer, name in zip(self.items, LISTS, strict=True)
        )
        self.channel = b.expand(b.iota(s.head_dim), 0)
        self.low = b.full(0, "i32")
        self.high = b.map("a + b - 1", limit, count, dtype="i32", hint="high")
        rows = self._rows(first, count, limit)
        q = rows.lanes.read(b, self.q, rows.query, rows.live)
        whole = b.map(f"a // {s.keys_many} * {s.keys_many}", limit, dtype="i32", hint="whole")
        seen = (None, b.expand(rows.end, 1))
        _, total, acc = self._keys(self._half(q), s.keys_many, seen, whole)
        part = b.map("1.0 / a", total, hint="part")
        result = b.map("a * b", acc, b.expand(part, 1), hint="result")
        place = b.expand(rows.query, 1), rows.lanes.column
        b.store(self.out, *place, result, mask=b.expand(rows.live, 1))
        return b.finish(s.kv_heads, "P", requires=self._facts(), of="graph.partial",
                        given=(*self.items, self.table), items=PROMPT, way=s.way)  # fmt: skip

    def _rows(self, first: Value, count: Value, limit: Value) -> _Rows:
        b, s = self.b, self.shape
        lane = b.iota(s.rows_many * s.group)
        place = b.map(f"a // {s.group}", lane, dtype="i32", hint="place")
        query = b.map("a + b", first, place, dtype="i32", hint="query")
        live = b.map("(a < b) & (c < d)", place, count, query, self.tokens, dtype="bool",
                     hint="live")  # fmt: skip
        lanes = self._lanes(lane)
        end = b.map("a + b", limit, place, dtype="i32", hint="end")
        return _Rows(query, lanes, live, end)

    def _facts(self) -> tuple[str, ...]:
        page = self.shape.page
        return (
            "P >= 0", "N >= 1", "0 <= prompt_query[*]", "0 <= prompt_rows[*]",
            "0 <= prompt_page[*]", "0 <= prompt_limit[*]", "0 <= pages[*] < N",
            f"prompt_page[i] + (prompt_limit[i] + prompt_rows[i] + {page - 2}) // {page} <= E",
        )  # fmt: skip
