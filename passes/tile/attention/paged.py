"""Paged attention kernels: decode (one query a sequence), any step (ragged queries), and merge.

A layer's keys and values lie in pages, pools [N, K, P, C]; a sequence's page table row names its
pages in order. Scores live in the exp2 domain: `q` is scaled by scale * log2(e) once. A state is
(m, l, acc): running maximum, sum of weights, weighted sum of values (section 1 of the algebra).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ....ir.core import Operation, Value
from ..builder import KernelBuilder

LOG2E = 1.4426950408889634
MASKED = -1e30


@dataclass(frozen=True)
class Attention:
    """The static shape of one attention kernel.

    `kv` is the pools' dtype; `window` how many last keys a query sees (0: all). Decode: `splits`
    programs share a sequence's pages. Any step: `rows` queries a tile, or `few` where no more, or
    one more, are left (0: none does), `programs` share a sequence's tiles.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page: int = 16
    kv: str = "f32"
    scale: float = 0.0
    window: int = 0
    splits: int = 1
    rows: int = 8
    few: int = 0
    programs: int = 1

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads

    @property
    def factor(self) -> float:
        """What queries are multiplied by; the default scale is 1 / sqrt(C)."""
        return (self.scale or self.head_dim**-0.5) * LOG2E

    def name(self, kind: str) -> str:
        """A name that tells the shape."""
        text = f"{kind}_{self.heads}_{self.kv_heads}_{self.head_dim}_{self.page}_{self.kv}"
        return text + (f"_window{self.window}" if self.window else "")


def tile_rows(group: int, decoding: bool = False) -> tuple[int, int]:
    """Return how many queries a tile of a step takes on a CPU, where `group` heads share a key, and
    how many the last one may.

    Sixteen query heads pay for turning a page round: no lanes are left to sum. They are wasted on
    the two or three queries of a short chunk, or of what is left of a long one: of three, eight
    heads took half of the time of sixteen. In steps that are mostly `decoding`, eight are wasted,
    too: one query of four heads took 0.7 of the time in four rows, and prompts 1.04.
    """
    if decoding:
        return max(1, 4 // group), 0
    return (16 // group, 8 // group) if group in (2, 4) else (8, 0)


def decode(shape: Attention) -> Operation:
    """Return attention of one query a sequence, sequence b's being row b of q.

    Arguments: B, N, MAXP, q [B, H * C], page_table [B, MAXP], kv_lengths [B], k, v [N, K, P, C],
    then out [B, H * C]; with splits > 1 instead of out the states m, l [B, S, H] and acc
    [B, S, H, C], for `merge`. A sequence without keys has the output 0.
    """
    return _Decode(shape).kernel()


def attention(shape: Attention) -> Operation:
    """Return causal attention of a step's queries over cached keys, their own included.

    Arguments: T, B, B1 = B + 1, N, MAXP, q [T, H * C], page_table [B, MAXP], query_starts [B1],
    kv_lengths [B], k, v [N, K, P, C], out [T, H * C]. A sequence's last query is at its last key.
    Where it would be alone in a tile, as that of a running sequence, it is read by itself: a tile
    of four took as long as four such.
    """
    return _Step(shape).kernel()


def merge(heads: int, head_dim: int, splits: int) -> Operation:
    """Return the kernel that joins the states of disjoint parts of the keys.

    Arguments: B, m, l [B, S, H], acc [B, S, H, C], out [B, H * C].
    """
    b = KernelBuilder(f"attention_merge_{heads}_{head_dim}_{splits}")
    b.scalar("B")
    m = b.buffer("m", "f32", "B", splits, heads)
    l = b.buffer("l", "f32", "B", splits, heads)  # noqa: E741
    acc = b.buffer("acc", "f32", "B", splits, heads, head_dim)
    out = b.buffer("out", "f32", "B", heads * head_dim)
    row, head = b.program_id(0, "row"), b.program_id(1, "head")
    part, channel = b.iota(splits), b.iota(head_dim)
    maxima = b.load(m, row, part, head)
    weight = b.map("exp2(a - b)", maxima, b.reduce("max", maxima, 0, hint="top"), hint="weight")
    total = b.reduce("sum", b.map("a * b", weight, b.load(l, row, part, head)), 0, hint="total")
    rows = b.load(acc, row, b.expand(part, 1), head, b.expand(channel, 0))
    summed = b.reduce("sum", b.map("a * b", rows, b.expand(weight, 1)), 0, hint="summed")
    column = b.map(f"a * {head_dim} + b", head, channel, dtype="i32", hint="column")
    b.store(out, row, column, b.map(_QUOTIENT, summed, total))
    return b.finish("B", heads, requires=("B >= 0",), of="graph.merge")


_QUOTIENT = "where(b > 0.0, a / max(b, 1e-30), 0.0)"


@dataclass
class _Common:
    """What the two kernels share: arguments, the loop over pages, one online-softmax step."""

    shape: Attention
    b: KernelBuilder = field(init=False)
    table: Value = field(init=False)
    sequence: Value = field(init=False)
    length: Value = field(init=False)
    kv_head: Value = field(init=False)

    def _pools(self) -> None:
        b, s = self.b, self.shape
        pages = ("N", s.kv_heads, s.page, s.head_dim)
        self.k_pool, self.v_pool = b.buffer("k", s.kv, *pages), b.buffer("v", s.kv, *pages)

    def _constants(self) -> None:
        b, s = self.b, self.shape
        self.offset, self.channel = b.iota(s.page), b.iota(s.head_dim)

    def _facts(self) -> tuple[str, ...]:
        return (
            "B >= 0", "N >= 1", "MAXP >= 0", "0 <= page_table[*] < N",
            f"0 <= kv_lengths[*] <= MAXP * {self.shape.page}",
        )  # fmt: skip

    def _empty(self, rows: int) -> tuple[Value, Value, Value]:
        b = self.b
        zero = b.full(0.0, "f32", rows)
        return b.full(MASKED, "f32", rows), zero, b.full(0.0, "f32", rows, self.shape.head_dim)

    def _pages(
        self, low: Value, high: Value, q: Value, rows: int, limits: tuple[Value | None, Value]
    ) -> list[Value]:
        """Return the state of query rows over pages [low, high) of this sequence.

        `limits` are the first (inclusive) and last (exclusive) visible key, [rows, 1] or scalars.
        """
        b = self.b
        with b.loop(low, high, *self._empty(rows), hint="page") as loop:
            page = b.load(self.table, self.sequence, loop.index, hint="page_id")
            key = b.map(f"a * {self.shape.page} + b", loop.index, self.offset, dtype="i32",
                        hint="key")  # fmt: skip
            loop.yields(*self._step(page, key, q, limits, loop.carried))
        return loop.results

    def _step(
        self, page: Value, key: Value, q: Value, limits: tuple[Value | None, Value],
        state: list[Value],
    ) -> tuple[Value, Value, Value]:  # fmt: skip
        """Return the state after one page: scores, new maximum, rescaled sums."""
        b = self.b
        top, total, acc = state
        inside = b.expand(b.map("a < b", key, self.length, hint="inside"), 1)
        keys = self._rows(self.k_pool, page, inside)
        blank = b.full(0.0, "f32", q.type.parameters[1][0], self.shape.page)  # type: ignore[index]
        scores = self._masked(b.dot(q, keys, blank, transpose_b=True), b.expand(key, 0), limits)
        new_top = b.map("max(a, b)", top, b.reduce("max", scores, 1, hint="best"), hint="new_top")
        weights = b.map("exp2(a - b)", scores, b.expand(new_top, 1), hint="weights")
        fade = b.map("exp2(a - b)", top, new_top, hint="fade")
        total = b.map("a * b + c", total, fade, b.reduce("sum", weights, 1), hint="total")
        faded = b.map("a * b", acc, b.expand(fade, 1), hint="faded")
        values = self._rows(self.v_pool, page, inside)
        return new_top, total, b.dot(weights, values, faded)

    def _rows(self, pool: Value, page: Value, inside: Value) -> Value:
        """Return a page's keys or values [P, C]; slots past the end are never read."""
        b = self.b
        rows = b.load(pool, page, self.kv_head, b.expand(self.offset, 1),
                      b.expand(self.channel, 0), mask=inside)  # fmt: skip
        return rows if self.shape.kv == "f32" else b.map("f32(a)", rows)

    def _masked(self, scores: Value, key: Value, limits: tuple[Value | None, Value]) -> Value:
        first, end = limits
        if first is None:
            return self.b.map(f"where(b < c, a, {MASKED})", scores, key, end, hint="scores")
        expr = f"where((b >= d) & (b < c), a, {MASKED})"
        return self.b.map(expr, scores, key, end, first, hint="scores")

    def _head_columns(self, group: Value) -> Value:
        """Return the columns of q, [.., C], of this key head's query heads `group`."""
        b, s = self.b, self.shape
        expr = f"(a * {s.group} + b) * {s.head_dim} + c"
        return b.map(expr, self.kv_head, group, b.expand(self.channel, 0), dtype="i32",
                     hint="column")  # fmt: skip


class _Decode(_Common):
    def kernel(self) -> Operation:
        s = self.shape
        b = self.b = KernelBuilder(s.name(f"decode{s.splits}"))
        for extent in ("B", "N", "MAXP"):
            b.scalar(extent)
        width = s.heads * s.head_dim
        self.q = b.buffer("q", "f32", "B", width)
        self.table = b.buffer("page_table", "i32", "B", "MAXP")
        lengths = b.buffer("kv_lengths", "i32", "B")
        self._pools()
        self._outputs(width)
        self._constants()
        self.kv_head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        self.length = b.load(lengths, self.sequence, hint="length")
        self._body()
        grid = (s.kv_heads, "B", s.splits)
        return b.finish(*grid, requires=self._facts(), of="graph.partial")

    def _outputs(self, width: int) -> None:
        b, s = self.b, self.shape
        if s.splits == 1:
            self.outputs = [b.buffer("out", "f32", "B", width)]
            return
        states = ("B", s.splits, s.heads)
        self.outputs = [b.buffer("m", "f32", *states), b.buffer("l", "f32", *states),
                        b.buffer("acc", "f32", *states, s.head_dim)]  # fmt: skip

    def _body(self) -> None:
        b, s = self.b, self.shape
        group = b.iota(s.group)
        column = self._head_columns(b.expand(group, 1))
        q = b.map(f"a * {s.factor!r}", b.load(self.q, self.sequence, column), hint="q_scaled")
        low, high = self._range()
        first = b.map(f"a - {s.window}", self.length, dtype="i32") if s.window else None
        top, total, acc = self._pages(low, high, q, s.group, (first, self.length))
        if s.splits == 1:
            result = b.map(_QUOTIENT, acc, b.expand(total, 1))
            b.store(self.outputs[0], self.sequence, column, result)
            return
        head = b.map(f"a * {s.group} + b", self.kv_head, group, dtype="i32", hint="head")
        for target, value in zip(self.outputs, (top, total), strict=False):
            b.store(target, self.sequence, self.split, head, value)
        b.store(self.outputs[2], self.sequence, self.split, b.expand(head, 1),
                b.expand(self.channel, 0), acc)  # fmt: skip

    def _range(self) -> tuple[Value, Value]:
        """Return this program's pages: all that the window touches, or one split of them."""
        b, s = self.b, self.shape
        end = b.map(f"(a + {s.page - 1}) // {s.page}", self.length, dtype="i32", hint="end")
        start = b.full(0, "i32")
        if s.window:
            expr = f"max(a - {s.window}, 0) // {s.page}"
            start = b.map(expr, self.length, dtype="i32", hint="start")
        if s.splits == 1:
            return start, end
        self.split = b.program_id(2, "split")
        each = b.map(f"(a - b + {s.splits - 1}) // {s.splits}", end, start, dtype="i32")
        low = b.map("a + b * c", start, self.split, each, dtype="i32", hint="low")
        return low, b.map("min(a + b, c)", low, each, end, dtype="i32", hint="high")


class _Step(_Common):
    def kernel(self) -> Operation:
        s = self.shape
        b = self.b = KernelBuilder(s.name("attention"))
        self.tokens = b.scalar("T")
        for extent in ("B", "B1", "N", "MAXP"):
            b.scalar(extent)
        self.q = b.buffer("q", "f32", "T", s.heads * s.head_dim)
        self.table = b.buffer("page_table", "i32", "B", "MAXP")
        starts = b.buffer("query_starts", "i32", "B1")
        lengths = b.buffer("kv_lengths", "i32", "B")
        self._pools()
        self.out = b.buffer("out", "f32", "T", s.heads * s.head_dim)
        self._constants()
        self.kv_head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        part = b.program_id(2, "part")
        self.length = b.load(lengths, self.sequence, hint="length")
        self.start = b.load(starts, self.sequence, hint="start")
        after = b.load(starts, b.map("a + 1", self.sequence), hint="after")
        self.queries = b.map("a - b", after, self.start, hint="queries")
        lowest = b.map(f"a * {s.rows}", part, dtype="i32", hint="lowest")
        whole = rest = self.queries
        if s.rows > 1:
            expr = f"(a + {s.rows - s.few - 2}) // {s.rows} * {s.rows}"
            whole = rest = b.map(expr, self.queries, dtype="i32", hint="whole")
            if s.few > 1:
                expr = f"a + max(b - a + {s.few - 2}, 0) // {s.few} * {s.few}"
                rest = b.map(expr, whole, self.queries, dtype="i32", hint="rest")
            last = b.map("a + b", rest, part, dtype="i32", hint="last")
            with b.loop(last, self.queries, hint="alone") as loop:
                self._tile(loop.index, 1)
                loop.yields()
        if s.few > 1:
            begin = b.map(f"a + b * {s.few}", whole, part, dtype="i32", hint="begin")
            with b.loop(begin, rest, step=s.few * s.programs, hint="left") as loop:
                self._tile(loop.index, s.few)
                loop.yields()
        with b.loop(lowest, whole, step=s.rows * s.programs, hint="base") as loop:
            self._tile(loop.index, s.rows)
            loop.yields()
        facts = (*self._facts(), "T >= 0", "B1 == B + 1", "0 <= query_starts[*] <= T")
        grid = (s.kv_heads, "B", s.programs)
        return b.finish(*grid, requires=facts, of="graph.partial")

    def _tile(self, base: Value, rows: int) -> None:
        """Attend with `rows` queries from `base` on, each with all heads of the group.

        Queries past the last repeat it, and are not stored.
        """
        b, s = self.b, self.shape
        lane = b.iota(rows * s.group)
        query = b.map(f"a + b // {s.group}", base, lane, dtype="i32", hint="query")
        safe = b.map("max(min(a, b - 1), 0)", query, self.queries, dtype="i32", hint="safe")
        row = b.map("min(max(a + b, 0), c - 1)", self.start, safe, self.tokens, dtype="i32",
                    hint="row")  # fmt: skip
        row = b.expand(row, 1)
        column = self._head_columns(b.expand(b.map(f"a % {s.group}", lane, dtype="i32"), 1))
        q = b.map(f"a * {s.factor!r}", b.load(self.q, row, column), hint="q_scaled")
        end = b.map("a - b + c + 1", self.length, self.queries, safe, dtype="i32", hint="seen")
        end = b.expand(end, 1)
        first = b.map(f"a - {s.window}", end, dtype="i32") if s.window else None
        low, high = self._range(base, rows)
        _, total, acc = self._pages(low, high, q, rows * s.group, (first, end))
        live = b.expand(b.map("a < b", query, self.queries, hint="live"), 1)
        result = b.map(_QUOTIENT, acc, b.expand(total, 1))
        b.store(self.out, row, column, result, mask=live)

    def _range(self, base: Value, rows: int) -> tuple[Value, Value]:
        """Return the pages that some of a tile's `rows` queries sees."""
        b, s = self.b, self.shape
        before = b.map("a - b + c", self.length, self.queries, base, dtype="i32", hint="before")
        high = b.map(f"(max(min(a + {rows}, b), 0) + {s.page - 1}) // {s.page}", before,
                     self.length, dtype="i32", hint="high")  # fmt: skip
        if not s.window:
            return b.full(0, "i32"), high
        expr = f"max(a + 1 - {s.window}, 0) // {s.page}"
        return b.map(expr, before, dtype="i32", hint="low"), high
