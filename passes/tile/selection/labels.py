"""Label kernels: a few channels of each key, in few bits, and the scores that they give.

A layer's labels lie in pages beside its keys, [N, K, rows, P]: for each channel of the label the
P tokens of a page follow each other, so that tokens are lanes. `bf16` and `i8` have a row a
channel; `i4` packs channel c into the low and c + r/2 into the high half of row c (u8, code + 8).
What labels mean stands in `ir.sparse.calibration`, what scores mean in `ir.sparse.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.sparse.calibration import LEVELS
from ..attention.paged import LOG2E
from ..builder import KernelBuilder
from .score_place import Place
from .tail_mass import Mass

POOL_DTYPES = {"bf16": "bf16", "i8": "i8", "i4": "u8"}
"""What a pool of labels is an array of."""


@dataclass(frozen=True)
class Labels:
    """The static shape of a layer's labels: `channels` of C, in a format; `kv` is the keys'."""

    kv_heads: int
    head_dim: int
    page: int
    channels: int
    format: str = "i4"
    kv: str = "f32"

    @property
    def rows(self) -> int:
        """Rows of a page of one key head."""
        return self.channels // 2 if self.format == "i4" else self.channels

    @property
    def dtype(self) -> str:
        """The dtype of the pool."""
        return POOL_DTYPES[self.format]

    @property
    def pool(self) -> tuple[int | str, ...]:
        """The shape of the pool."""
        return ("N", self.kv_heads, self.rows, self.page)

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        return f"{self.kv_heads}_{self.head_dim}_{self.page}_{self.channels}_{self.format}"


def label_write(shape: Labels) -> Operation:
    """Return the kernel that makes labels of the keys that a step wrote.

    Arguments: T, N, slots [T] (-1: none), k [N, K, P, C] in calibrated order, mean, level [K, r]
    f32 (by place in that order; what a code is worth), labels [N, K, rows, P].
    """
    b = KernelBuilder(f"label_write_{shape.name}_{shape.kv}")
    b.scalar("T")
    b.scalar("N")
    slots = b.buffer("slots", "i32", "T")
    k = b.buffer("k", shape.kv, "N", shape.kv_heads, shape.page, shape.head_dim)
    tables = [b.buffer(n, "f32", shape.kv_heads, shape.channels) for n in ("mean", "level")]
    labels = b.buffer("labels", shape.dtype, *shape.pool)
    slot = b.load(slots, b.program_id(0, "token"), hint="slot")
    written = b.map("a >= 0", slot, hint="written")
    page = b.map(f"max(a, 0) // {shape.page}", slot, hint="page")
    offset = b.map(f"max(a, 0) % {shape.page}", slot, hint="offset")
    head = b.expand(b.iota(shape.kv_heads), 1)

    def coded(channel: Value) -> Value:
        """Return the label of some channels, [K, n]."""
        key = b.load(k, page, head, offset, channel, mask=written, dtype="f32", hint="key")
        if shape.format == "bf16":
            return key
        return label_codes(b, shape, key, *(b.load(table, head, channel) for table in tables))

    row = b.expand(b.iota(shape.rows), 0)
    value = coded(row)
    if shape.format == "i4":
        high = coded(b.map(f"a + {shape.rows}", row, dtype="i32", hint="high"))
        text = "(i32(a) + 8) | ((i32(b) + 8) << 4)"
        value = b.map(text, value, high, dtype="i32", hint="packed")
    elif shape.format == "i8":
        value = b.map("i32(a)", value, dtype="i32", hint="code")
    b.store(labels, page, head, row, offset, value, mask=written)
    facts = ("T >= 0", "N >= 0", f"-1 <= slots[*] < N * {shape.page}")
    return b.finish("T", requires=facts, of="graph.label_write")


def label_codes(
    b: KernelBuilder, shape: Labels, key: Value, mean: Value, level: Value
) -> Value:  # fmt: skip
    """Return what labels hold of some channels of keys, as f32: codes, or the channels as bf16."""
    if shape.format == "bf16":
        return b.map("f32(a)", b.map("a", key, dtype="bf16", hint="half"), hint="label")
    return _rounded(b, b.map("(a - b) / c", key, mean, level, hint="x"), LEVELS[shape.format])


def _rounded(b: KernelBuilder, x: Value, most: int) -> Value:
    """Return x rounded, halves to even, and clipped to -most .. most."""
    near = b.map("floor(a + 0.5)", x, hint="near")
    odd = "(b - a == 0.5) & (b - 2.0 * floor(b * 0.5) == 1.0)"
    near = b.map(f"where({odd}, b - 1.0, b)", x, near, dtype="f32", hint="near")
    return b.map(f"min(max(a, {-float(most)}), {float(most)})", near, dtype="f32", hint="code")


@dataclass(frozen=True)
class Scores:
    """The static shape of scoring: heads H over labels; the middle between `sinks` and `recent`
    tokens is scored, by token or by whole page; `parts` programs share a sequence's pages. `flat`:
    rows' pages and scores lie one after another, as a work list has them. `tail`: what the middle
    weighs by its labels is summed up, of each query head and part; `words`: by `word_scores`, which
    rounds queries."""

    labels: Labels
    heads: int
    scale: float = 0.0
    sinks: int = 4
    recent: int = 16
    unit: str = "token"
    parts: int = 1
    q: str = "f32"
    flat: bool = False
    tail: bool = False
    words: bool = False

    @property
    def group(self) -> int:
        """How many query heads share a key head, and so a selection."""
        return self.heads // self.labels.kv_heads

    @property
    def factor(self) -> float:
        """What scores are multiplied by, so that exp2 of them are weights."""
        return (self.scale or self.labels.head_dim**-0.5) * LOG2E

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        name = f"label_scores_{self.heads}_{self.labels.name}_{self.sinks}_{self.recent}"
        return (
            f"{name}_{self.unit}_{self.q}"
            + ("_flat" * self.flat)
            + ("_tail" * self.tail)
            + (f"_{self.parts}" if self.parts > 1 else "")
        )


def label_scores(shape: Scores) -> Operation:
    """Return the kernel of the scores of decode steps: sequence b's query is row b of q.

    Arguments: B, N, MAXP, L = MAXP * P, q [B, H * C], page_table [B, MAXP], kv_lengths, budgets
    [B] (a sequence of fewer keys than its budget is read whole, and needs no scores), labels
    [N, K, rows, P], mean, level [K, r], scores [B, K, L] in the exp2 domain, by token or page.

    `flat`: T, B, N, E, C, q [T, H * C], pages [E], row_page [B] (where a row's pages begin), base
    [B] (where its scores do), kv_lengths, budgets, labels, mean, level, scores [K, C].

    `tail`: then tail_max, tail_sum [B, H, parts] f32: of a part's tokens of the middle the largest
    score of a query head, and the sum of 2^(score - that); LOWEST and 0 where there are none.
    """
    return _Scores(shape).kernel()


class _Scores:
    def __init__(self, shape: Scores) -> None:
        self.shape, labels = shape, shape.labels
        b = self.b = KernelBuilder(shape.name)
        for extent in ("T", "B", "N", "E", "C") if shape.flat else ("B", "N", "MAXP", "L"):
            b.scalar(extent)
        self.q = b.buffer("q", shape.q, "T" if shape.flat else "B", shape.heads * labels.head_dim)
        self.place = Place(b, shape.flat, labels.page)
        self.lengths, self.budgets = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "budgets"))
        self.pool = b.buffer("labels", labels.dtype, *labels.pool)
        self.mean, self.level = (
            b.buffer(n, "f32", labels.kv_heads, labels.channels) for n in ("mean", "level")
        )
        self.scores = self.place.buffer("scores", "f32", labels.kv_heads)
        self.mass = Mass(b, shape.group, shape.heads, shape.parts) if shape.tail else None

    def kernel(self) -> Operation:
        b, page = self.b, self.shape.labels.page
        self.head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        self.place.enter(self.head, self.sequence)
        low, high = self._range()
        queries, shift = self._queries()
        lane, mass = b.iota(page), self.mass
        with b.loop(low, high, *(mass.start(page) if mass else ()), hint="page") as loop:
            by_head = self._by_head(queries, shift, self.place.page(loop.index))
            score = b.reduce("max", by_head, 0, hint="score")
            key = b.map(f"a * {page} + b", loop.index, lane, dtype="i32", hint="key")
            if self.shape.unit == "page":
                b.store(self.scores, *self.place.at(loop.index),
                        b.reduce("max", score, 0, hint="largest"))  # fmt: skip
            else:
                b.store(self.scores, *self.place.at(key), score)
            seen = self._middle(key) if mass and self.shape.unit == "token" else None
            loop.yields(*(mass.add(loop.carried, by_head, seen) if mass else ()))
        if mass:
            part = b.program_id(2, "part") if self.shape.parts > 1 else b.full(0, "i32")
            mass.store(loop.results, self.sequence, self.head, part)
        facts = ("B >= 0", "N >= 1", *self.place.facts)
        facts = (*facts, "B <= T") if self.shape.flat else facts
        grid = (self.shape.labels.kv_heads, "B", self.shape.parts)
        return b.finish(*grid, requires=facts, of="graph.select")

    def _range(self) -> tuple[Value, Value]:
        """Return this program's pages: those of the middle, none where all is read anyway."""
        b, s, page = self.b, self.shape, self.shape.labels.page
        length, budget = (
            b.load(buffer, self.sequence, hint=hint)
            for buffer, hint in ((self.lengths, "length"), (self.budgets, "budget"))
        )
        first = -(-s.sinks // page) if s.unit == "page" else s.sinks // page
        over = 0 if s.unit == "page" else page - 1
        self.length = length
        text = f"where(a >= b, (max(a - {s.recent}, 0) + {over}) // {page}, 0)"
        high = b.map(text, length, budget, dtype="i32", hint="end")
        low = b.full(first, "i32")
        if s.parts == 1:
            return low, high
        each = b.map(f"(max(a - {first}, 0) + {s.parts - 1}) // {s.parts}", high, dtype="i32")
        low = b.map(f"{first} + a * b", b.program_id(2, "part"), each, dtype="i32", hint="low")
        return low, b.map("min(a + b, c)", low, each, high, dtype="i32", hint="high")

    def _queries(self) -> tuple[list[Value], Value | None]:
        """Return the queries' labels [g, rows], one or (i4) two, times what codes are worth, and
        what is taken from a head's scores: the product with the mean, which codes do without."""
        b, s, labels = self.b, self.shape, self.shape.labels
        group, row = b.expand(b.iota(s.group), 1), b.expand(b.iota(labels.rows), 0)
        found = []
        for first in range(0, labels.channels, labels.rows):
            channel = b.map(f"a + {first}", row, dtype="i32", hint="channel") if first else row
            text = f"(a * {s.group} + b) * {labels.head_dim} + c"
            column = b.map(text, self.head, group, channel, dtype="i32", hint="column")
            q = b.load(self.q, self.sequence, column, dtype="f32", hint="q_label")
            table = self.mean if labels.format == "bf16" else self.level
            found.append((q, b.load(table, self.head, channel)))
        if labels.format != "bf16":
            return [b.map(f"a * b * {s.factor!r}", q, level) for q, level in found], None
        ((q, mean),) = found
        shift = b.reduce("sum", b.map(f"a * b * {s.factor!r}", q, mean), 1, hint="shift")
        return [b.map(f"a * {s.factor!r}", q)], b.expand(shift, 1)

    def _middle(self, key: Value) -> Value:
        """Return which tokens are of the middle, of pages that hold forced ones too."""
        text = f"(a >= {self.shape.sinks}) & (a < b - {self.shape.recent})"
        return self.b.map(text, key, self.length, dtype="bool", hint="middle")

    def _by_head(self, queries: list[Value], shift: Value | None, page: Value) -> Value:
        """Return the scores of a page's tokens [g, P] of each query head of the group."""
        b, labels = self.b, self.shape.labels
        row, lane = b.expand(b.iota(labels.rows), 1), b.expand(b.iota(labels.page), 0)
        codes = b.load(self.pool, page, self.head, row, lane, hint="codes")
        texts = {"i4": ["f32(a & 15) - 8.0", "f32(a >> 4) - 8.0"]}.get(labels.format, ["f32(a)"])
        total = b.full(0.0, "f32", self.shape.group, labels.page)
        for query, text in zip(queries, texts, strict=True):
            total = b.dot(query, b.map(text, codes, dtype="f32", hint="label"), total)
        if shift is not None:
            total = b.map("a - b", total, shift, hint="scores")
        return total
