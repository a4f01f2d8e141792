"""The tail of sparse decode: what is not read counts by its labels' weight and the mean of v.

`ir.sparse.policy` says what it means. Nothing is read for it but a row of the means of v: the
weight of the whole middle comes from the kernel that scored it (`tail_mass`), and the labels of
what *is* read are made again from the keys that decode has in hand, so that their weight is taken
off. That is linear: the parts of a list each take off their own, the first one brings the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

from ....ir.core import Value
from ....ir.dialects.tile import extents_of
from ..builder import KernelBuilder
from .labels import Scores, label_codes
from .row_parts import parts_of
from .tail_mass import LOWEST, UNSEEN

EXACT = "f16"
"""What bytes of queries and codes of labels are multiplied in where labels are words: it holds
integers up to 2048 as they are, and their products are summed up in f32."""


class Tail:
    """The tail of one row in a decode kernel. `shape` is that of the kernel that scored it; `rows`,
    where labels are words, the argument B.

    Declares tail_max, tail_sum [B, H, parts]; mean, level [K, r]; centre, spread [K, C] f32 (the
    mean of k, and the deviation of the channels that labels leave out, 0 elsewhere, in calibrated
    order); value_sums [N, K, C] f32 (of v, from a sequence's start to the page's end). Where labels
    are words, then query and score_unit as `query_words` has them.
    """

    def __init__(self, b: KernelBuilder, shape: Scores, rows: Value | None = None) -> None:
        self.b, self.shape, labels = b, shape, shape.labels
        self.rows = rows
        kv_heads, width = labels.kv_heads, labels.head_dim
        parts = ("B", shape.heads, shape.parts)
        self.mass_of = [b.buffer(n, "f32", *parts) for n in ("tail_max", "tail_sum")]
        self.mean, self.level = (
            b.buffer(n, "f32", kv_heads, labels.channels) for n in ("mean", "level")
        )
        self.expected = [b.buffer(n, "f32", kv_heads, width) for n in ("centre", "spread")]
        self.sums = b.buffer("value_sums", "f32", "N", kv_heads, width)
        if shape.words:
            words = shape.group * labels.channels // 4
            self.bytes = b.buffer("query", "i32", "B", kv_heads, words)
            self.units = b.buffer("score_unit", "f32", "B", kv_heads)

    def enter(
        self, sequence: Value, kv_head: Value, head: Value, length: Value, q: Value, q_label: Value,
        page_at: Callable[[Value, Value], Value],
    ) -> None:  # fmt: skip
        """Take a row's `length`, query heads `head` [h], their queries q [h, C] and the channels
        of their labels q_label [h, r], both f32 and times the factor of scores; `page_at` gives
        the row's page of a number, under a mask."""
        b, page = self.b, self.shape.labels.page
        self.kv_head, self.length = kv_head, length
        self.whole = b.map(f"a // {page}", length, dtype="i32", hint="whole")
        self.top, mass = self._mass(sequence, head)
        self.mass = b.map("where(b > 0, a, 0.0)", mass, self.whole, dtype="f32", hint="mass")
        self.query, self.shift = self._labels_of(q_label)
        self.unit = b.full(1.0, "f32")
        if self.shape.words:
            self.query, self.unit = self._words_of(sequence, head)
        base = self._base(q)
        self.floor = b.map(f"where(c > 0.0, a + b, {LOWEST})", self.top, base, self.mass,
                           dtype="f32", hint="floor")  # fmt: skip
        self.page_at = page_at

    def _mass(self, sequence: Value, head: Value) -> tuple[Value, Value]:
        """Return the largest label score of the middle [h], and what it weighs against that."""
        b, parts = self.b, self.shape.parts
        if parts == 1:
            zero = b.full(0, "i32")
            top, mass = (b.load(buffer, sequence, head, zero) for buffer in self.mass_of)
            return top, mass
        part = b.expand(b.iota(parts), 0)
        place, mask = (sequence, b.expand(head, 1), part), None
        if self.shape.words:  # as many parts as rows leave room for
            assert self.rows is not None
            rows = parts_of(b, self.rows, self.shape.labels.kv_heads)
            mask = b.map("a < b", part, rows, dtype="bool", hint="live")
        tops = b.load(self.mass_of[0], *place, mask=mask, other=LOWEST)
        sums = b.load(self.mass_of[1], *place, mask=mask)
        top = b.reduce("max", tops, 1, hint="top")
        return top, b.reduce("sum", b.map("a * exp2(b - c)", sums, tops, b.expand(top, 1)), 1)

    def _labels_of(self, q: Value) -> tuple[Value, Value | None]:
        """Return the queries for labels [h, r], and what is taken from their scores."""
        b, labels = self.b, self.shape.labels
        self.label_channel = b.expand(b.iota(labels.channels), 0)
        self.ranges = [b.load(table, self.kv_head, self.label_channel)
                       for table in (self.mean, self.level)]  # fmt: skip
        mean, level = self.ranges
        if labels.format != "bf16":
            return b.map("a * b", q, level, hint="q_label"), None
        return q, b.expand(b.reduce("sum", b.map("a * b", q, mean), 1, hint="shift"), 1)

    def _words_of(self, sequence: Value, head: Value) -> tuple[Value, Value]:
        """Return the queries as `word_scores` took them [h, r], and what a product of one counts
        for."""
        b, s = self.b, self.shape
        each, channel = s.labels.channels // 4, self.label_channel
        text = f"(a % {s.group}) * {each} + b // 4"
        place = b.map(text, b.expand(head, 1), channel, dtype="i32", hint="word")
        words = b.load(self.bytes, sequence, self.kv_head, place, hint="words")
        byte = b.map("(a >> ((b % 4) * 8)) & 255", words, channel, dtype="i32", hint="byte")
        query = b.map("f32(a - (a >> 7) * 256)", byte, dtype=EXACT, hint="q_label")
        return query, b.load(self.units, sequence, self.kv_head, hint="unit")

    def _base(self, q: Value) -> Value:
        """Return what a label's score lacks of the log of a token's expected weight [h]."""
        b = self.b
        channel = b.expand(b.iota(self.shape.labels.head_dim), 0)
        centre, spread = (b.load(table, self.kv_head, channel) for table in self.expected)
        text = f"a * b + (a * c) * (a * c) * {log(2) / 2!r}"
        return b.reduce("sum", b.map(text, q, centre, spread), 1, hint="base")

    def read(self, key: Value, inside: Value, k: Value, end: Value | None = None) -> Value:
        """Return the label weights [h, n] of keys that are read: positions `key` [n], those
        `inside` [n], and the channels of their labels k [n, r] f32. Where a list says slots, `key`
        are places in it, and `end` is where it ends: forced tokens stand first and last."""
        b, labels = self.b, self.shape.labels
        codes = label_codes(b, labels, k, *self.ranges)
        if self.shape.words:
            codes = b.map("a", codes, dtype=EXACT, hint="codes")
        blank = b.full(0.0, "f32", extents_of(self.query.type)[0], *extents_of(key.type))
        scores = b.dot(self.query, codes, blank, transpose_b=True)
        shift = self.shift if self.shift is not None else b.full(0.0, "f32")
        counts = b.expand(self._middle(key, inside, self.length if end is None else end), 0)
        text = f"exp2(where(c & (e > 0.0), a * f - b - d, {UNSEEN}))"
        return b.map(text, scores, shift, counts, b.expand(self.top, 1), b.expand(self.mass, 1),
                     self.unit, dtype="f32", hint="read")  # fmt: skip

    def _middle(self, key: Value, inside: Value, end: Value) -> Value:
        """Return which keys are of the middle of what ends at `end`; whole pages of it, where these
        are selected."""
        s, page = self.shape, self.shape.labels.page
        low, high = s.sinks, f"b - {s.recent}"
        if s.unit == "page":
            low, high = -(-s.sinks // page) * page, f"max(b - {s.recent}, 0) // {page} * {page}"
        text = f"c & (a >= {low}) & (a < {high})"
        return self.b.map(text, key, end, inside, dtype="bool", hint="middle")

    def join(self, state: tuple[Value, ...], read: Value, first: Value | None) -> tuple[Value, ...]:
        """Return the state (max, sum, accumulator) with the tail: the whole middle's weight where
        this is the `first` part (None: the only one), less what was read [h]."""
        b, (top, total, acc) = self.b, state
        if first is None:
            rest = b.map("max(a - b, 0.0)", self.mass, read, hint="rest")
        else:
            rest = b.map("where(c, a, 0.0) - b", self.mass, read, first, dtype="f32", hint="rest")
        higher = b.map("max(a, b)", top, self.floor, hint="higher")
        fade = b.map("exp2(a - b)", top, higher, hint="fade")
        weight = b.map("a * exp2(b - c)", rest, self.floor, higher, hint="weight")
        total = b.map("a * b + c", total, fade, weight, hint="total")
        acc = b.map("a * b + c * d", acc, b.expand(fade, 1), b.expand(weight, 1),
                    b.expand(self._mean(), 0), hint="acc")  # fmt: skip
        return higher, total, acc

    def _mean(self) -> Value:
        """Return the mean of v over the whole pages of the context [C]."""
        b, page = self.b, self.shape.labels.page
        some = b.map("a > 0", self.whole, dtype="bool", hint="some")
        last = b.map("max(a - 1, 0)", self.whole, dtype="i32", hint="last")
        channel = b.iota(self.shape.labels.head_dim)
        sums = b.load(self.sums, self.page_at(last, some), self.kv_head, channel)
        return b.map(f"where(b > 0, a / f32(max(b, 1) * {page}), 0.0)", sums, self.whole,
                     dtype="f32", hint="mean_v")  # fmt: skip
