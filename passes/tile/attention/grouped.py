"""Items of one row each, several of them a program's, whose blocks of keys it streams one by one.

Beside a launch of large tiles two small programs have room on a multiprocessor. Of 128 rows whose
own keys are a block or two, those of all eight key heads then come in four rounds, and each waits
for its lists, its keys and its products in turn. A program for several rows waits once, and all of
them are there from the first on: each row has query heads of one tile, which sees of a block those
of its row. Of an H200's microseconds a layer, 128 rows in 8 trees of 1,024 keys, 40 of their own:
24.6 in place of 26.4, with 64 25.7 and 27.4; with 96 behind 2,048 keys of all rows 30.2 and 32.7.
Three and four stages leave room for one program only, and took 27.6 to 40.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ....ir.core import Operation, Value
from .parts import FEW, Parts, _Parts
from .tile_rows import listed

GROUPED = "grouped"
"""The way of lists whose items of few rows are read so."""


class _Run(NamedTuple):
    """One of a program's items: the blocks of all up to its last, its first entry in the page
    table, and its keys [low, high)."""

    end: Value
    page: Value
    low: Value
    high: Value


class _Block(NamedTuple):
    """A block of keys: which of the program's items it is of, its page, its first key, and where
    the item ends."""

    of: Value
    page: Value
    low: Value
    high: Value


def grouped(shape: Parts) -> Operation:
    """Return the kernel of a list's items of one row each, as many of them a program as the small
    tile has rows; others are passed over. A block of keys is a page, or divides one.

    Arguments as `attention_parts` has them.
    """
    assert shape.page % shape.keys == 0 and not shape.window
    return _Grouped(replace(shape, items=FEW, way=GROUPED)).kernel()


class _Grouped(_Parts):
    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        self.kv_head, group = b.program_id(0, "kv_head"), b.program_id(1, "group")
        self.channel, self.lane = b.expand(b.iota(s.head_dim), 0), b.iota(s.keys)
        runs = self._runs(group)
        lane = b.iota(s.rows_few * s.group)
        place = b.map(f"a // {s.group}", lane, dtype="i32", hint="place")
        item = b.map(f"a * {s.rows_few} + b", group, place, dtype="i32", hint="item")
        first, count, *_ = self._of_item(item, 2)
        live = b.map("a == 1", count, hint="live")
        query, limit, slot = listed(b, self.rows, first, live)
        lanes = self._lanes(lane)
        self.tile = self._half(lanes.read(b, self.q, query, live))
        state = self._streamed(runs, place, limit)
        self.results.store(b, lanes, (query, slot, live), state)
        given = (*self.items, *self.rows, self.table)
        return b.finish(s.kv_heads, f"ceildiv(W, {s.rows_few})", requires=self._facts(),
                        of="graph.partial", given=given, items=FEW, way=s.way)  # fmt: skip

    def _of_item(self, item: Value, count: int = 5) -> list[Value]:
        """Return what the list says of an item, of one past its end as of one without rows."""
        b = self.b
        inside = b.map("a < b", item, self.extents["W"], hint="inside")
        names = ("first", "count", "page", "low", "high")
        return [b.load(buffer, item, mask=inside, hint=name)
                for buffer, name in zip(self.items[:count], names, strict=False)]  # fmt: skip

    def _runs(self, group: Value) -> list[_Run]:
        b, s = self.b, self.shape
        runs: list[_Run] = []
        text = f"where(a == 1, max(c - b + {s.keys - 1}, 0) // {s.keys}, 0)"
        for number in range(s.rows_few):
            item = b.map(f"a * {s.rows_few} + {number}", group, dtype="i32", hint="item")
            _, count, page, low, high = self._of_item(item)
            end = b.map(text, count, low, high, dtype="i32", hint="end")
            if runs:
                end = b.map("a + b", runs[-1].end, end, dtype="i32", hint="end")
            runs.append(_Run(end, page, low, high))
        return runs

    def _block(self, number: Value, runs: list[_Run]) -> _Block:
        """Return a block by number; past the last, page 0."""
        b, s = self.b, self.shape
        of = b.full(0, "i32")
        for run in runs[:-1]:
            of = b.map("a + where(b >= c, 1, 0)", of, number, run.end, dtype="i32", hint="of")

        def chosen(values: list[Value]) -> Value:
            found = values[-1]
            for place, value in reversed(list(enumerate(values[:-1]))):
                found = b.map(f"where(a == {place}, b, c)", of, value, found, dtype="i32",
                              hint=values[0].name)  # fmt: skip
            return found

        begun = chosen([b.full(0, "i32"), *(run.end for run in runs[:-1])])
        page, low, high = (chosen(list(values)) for values in list(zip(*runs, strict=True))[1:])
        low = b.map(f"a + (b - c) * {s.keys}", low, number, begun, dtype="i32", hint="low")
        entry = b.map(f"a + b // {s.page}", page, low, dtype="i32", hint="entry")
        inside = b.map("(a < b) & (c >= 0) & (c < d)", number, runs[-1].end, entry,
                       self.extents["E"], dtype="bool", hint="inside")  # fmt: skip
        return _Block(of, b.load(self.table, entry, mask=inside, hint="page_id"), low, high)

    def _streamed(self, runs: list[_Run], place: Value, limit: Value) -> tuple[Value, ...]:
        """Return the state (maximum, sum, weighted values) of the tile over all blocks."""
        b, s = self.b, self.shape
        heads, none = s.rows_few * s.group, b.full(0, "i32")
        with b.loop(none, runs[-1].end, *self._begun(heads, s.keys), *self._block(none, runs),
                    hint="block") as loop:  # fmt: skip
            top, total, acc, *block = loop.carried
            of, page, low, high = block
            key = b.map("a + b", low, self.lane, dtype="i32", hint="key")
            at = self._at(low, [page])
            text = "where(a == b, min(c, d), 0)"
            end = b.map(text, place, of, limit, high, dtype="i32", hint="end")
            scores = self._seen(self._scores(at), b.expand(key, 0), (None, b.expand(end, 1)))
            inside = b.expand(b.map("a < b", key, high, hint="inside"), 1)
            state = self._more(scores, at, inside, (top, total, acc))
            number = b.map("a + 1", loop.index, dtype="i32", hint="after")
            loop.yields(*state, *self._block(number, runs))
        top, total, acc, *_ = loop.results
        return top, b.reduce("sum", total, 1, hint="total"), acc
