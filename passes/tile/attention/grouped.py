"""Items of one row each, several of them a program's, whose blocks of keys it streams one by one.

Beside a launch of large tiles two small programs have room on a multiprocessor. Of 128 rows whose
own keys are a block or two, those of all eight key heads then come in four rounds, and each waits
for its lists, its keys and its products in turn. A program for several rows waits once, and all of
them are there from the first on: each row has query heads of one tile, which sees of a block those
of its row. A block takes as long with a single key as with all, so it has keys of several rows: of
rows of 72 keys four take five blocks of 64, and not eight. Of an H200's microseconds a layer, 128
rows in 8 trees of 1,024 keys, 64 of their own: 27.4 item by item, 25.7 by blocks of one row, 26.0
so; with 72 of their own 32.2 and 27.9, with 96 behind 2,048 keys of all rows 32.7, 29.8 and 27.5.
Three and four stages leave room for one program only, and took 27.6 to 40.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ....ir.core import Operation, Value
from .parts import FEW, Parts, _Parts
from .tile_rows import listed

GROUPED = "grouped"
"""The way of lists whose items of few rows are read so."""

PIECES = 4
"""Of how many pieces a block of keys consists, each of one row's keys in one page. In 8 trees with
72 own keys two take 29.4 us, and four 27.9; 30.0 where their places and ends are carried from round
to round, and not made anew, as registers spill."""


class _Run(NamedTuple):
    """One of a program's items in the stream of its pieces: its first piece, the one behind its
    last, what must be added to a piece's number for its place in the page table, in pieces, and
    the key of the stream behind its last."""

    first: Value
    end: Value
    shift: Value
    high: Value


def grouped(shape: Parts) -> Operation:
    """Return the kernel of a list's items of one row each, as many of them a program as the small
    tile has rows; others are passed over. A block of keys is a page, or divides one.

    Arguments as `attention_parts` has them.
    """
    assert shape.page % shape.keys == 0 == shape.keys % PIECES and not shape.window
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
        first, count, _, low, high = self._of_item(item)
        live = b.map("a == 1", count, hint="live")
        query, limit, slot = listed(b, self.rows, first, live)
        text = f"a * {s.keys // PIECES}"
        begin = b.map(text, self._chosen([run.first for run in runs], place, "a == {}"),
                      dtype="i32", hint="begin")  # fmt: skip
        end = b.map("a + min(b, c) - d", begin, limit, high, low, dtype="i32", hint="end")
        lanes = self._lanes(lane)
        self.tile = self._half(lanes.read(b, self.q, query, live))
        state = self._streamed(runs, begin, end)
        self.results.store(b, lanes, (query, slot, live), state)
        given = (*self.items, *self.rows, self.table)
        return b.finish(s.kv_heads, f"ceildiv(W, {s.rows_few})", requires=self._facts(),
                        of="graph.partial", given=given, items=FEW, way=s.way)  # fmt: skip

    def _of_item(self, item: Value) -> list[Value]:
        """Return what the list says of an item, of one past its end as of one without rows."""
        b = self.b
        inside = b.map("a < b", item, self.extents["W"], hint="inside")
        names = ("first", "count", "page", "low", "high")
        return [b.load(buffer, item, mask=inside, hint=name)
                for buffer, name in zip(self.items, names, strict=True)]  # fmt: skip

    def _runs(self, group: Value) -> list[_Run]:
        b, s = self.b, self.shape
        runs: list[_Run] = []
        piece, of_page = s.keys // PIECES, s.page * PIECES // s.keys
        end = b.full(0, "i32")
        for number in range(s.rows_few):
            item = b.map(f"a * {s.rows_few} + {number}", group, dtype="i32", hint="item")
            _, count, page, low, high = self._of_item(item)
            keys = b.map("where(a == 1, max(b - c, 0), 0)", count, high, low, dtype="i32",
                         hint="keys")  # fmt: skip
            text = f"a + (b + {piece - 1}) // {piece}"
            first, end = end, b.map(text, end, keys, dtype="i32", hint="end")
            shift = b.map(f"(a + b // {s.page}) * {of_page} - c", page, low, first, dtype="i32",
                          hint="shift")  # fmt: skip
            high = b.map(f"a * {piece} + b", first, keys, dtype="i32", hint="high")
            runs.append(_Run(first, end, shift, high))
        return runs

    def _chosen(self, values: Sequence[Value], by: Value, text: str) -> Value:
        """Return the last of some values, or the first whose condition, by its number, holds."""
        found = values[-1]
        for number, value in reversed(list(enumerate(values[:-1]))):
            found = self.b.map(f"where({text.format(number)}, b, c)", by, value, found,
                               dtype="i32", hint=value.name)  # fmt: skip
        return found

    def _of_run(self, number: Value, values: list[Value], runs: list[_Run]) -> Value:
        """Return the one of some values that is of a piece's item; past the last, the last."""
        found = values[-1]
        for run, value in reversed(list(zip(runs[:-1], values[:-1], strict=True))):
            found = self.b.map("where(a < b, c, d)", number, run.end, value, found, dtype="i32",
                               hint=value.name)  # fmt: skip
        return found

    def _place(self, number: Value, runs: list[_Run]) -> Value:
        """Return where a piece stands in the page table, in pieces."""
        shift = self._of_run(number, [run.shift for run in runs], runs)
        return self.b.map("max(a + b, 0)", number, shift, dtype="i32", hint="place")

    def _numbers(self, block: Value) -> list[Value]:
        """Return the numbers of a block's pieces."""
        return [self.b.map(f"a * {PIECES} + {place}", block, dtype="i32", hint="piece")
                for place in range(PIECES)]  # fmt: skip

    def _pages_of(self, block: Value, runs: list[_Run]) -> list[Value]:
        """Return the pages of a block's pieces; past the last, page 0."""
        b, s, found = self.b, self.shape, []
        for number in self._numbers(block):
            text = f"a // {s.page * PIECES // s.keys}"
            entry = b.map(text, self._place(number, runs), dtype="i32", hint="entry")
            inside = b.map("(a < b) & (c < d)", number, runs[-1].end, entry, self.extents["E"],
                           dtype="bool", hint="inside")  # fmt: skip
            found.append(b.load(self.table, entry, mask=inside, hint="page_id"))
        return found

    def _streamed(self, runs: list[_Run], begin: Value, end: Value) -> tuple[Value, ...]:
        """Return the state (maximum, sum, weighted values) of the tile over all blocks, whose rows
        see keys [begin, end) of the stream."""
        b, s, none = self.b, self.shape, self.b.full(0, "i32")
        heads, piece, of_page = s.rows_few * s.group, s.keys // PIECES, s.page * PIECES // s.keys
        text = f"(a + {PIECES - 1}) // {PIECES}"
        blocks = b.map(text, runs[-1].end, dtype="i32", hint="blocks")
        with b.loop(none, blocks, *self._begun(heads, s.keys), *self._pages_of(none, runs),
                    hint="block") as loop:  # fmt: skip
            top, total, acc, *pages = loop.carried
            numbers, by_key = self._numbers(loop.index), f"a // {piece} == {{}}"
            text = f"a % {of_page} * {piece}"
            first = [b.map(text, self._place(number, runs), dtype="i32", hint="first")
                     for number in numbers]  # fmt: skip
            high = [self._of_run(number, [run.high for run in runs], runs) for number in numbers]
            page, first, high = (self._chosen(of, self.lane, by_key) for of in (pages, first, high))
            text = f"min(a, {s.page - piece}) + b % {piece}"
            offset = b.map(text, first, self.lane, dtype="i32", hint="offset")
            key = b.map(f"a * {s.keys} + b", loop.index, self.lane, dtype="i32", hint="key")
            at = b.expand(page, 1), self.kv_head, b.expand(offset, 1), self.channel
            seen = b.expand(begin, 1), b.expand(end, 1)
            scores = self._seen(self._scores(at), b.expand(key, 0), seen)
            inside = b.expand(b.map("a < b", key, high, hint="inside"), 1)
            state = self._more(scores, at, inside, (top, total, acc))
            after = b.map("a + 1", loop.index, dtype="i32", hint="after")
            loop.yields(*state, *self._pages_of(after, runs))
        top, total, acc, *_ = loop.results
        return top, b.reduce("sum", total, 1, hint="total"), acc
