"""The kernel of a work list whose items may also be lists of chosen keys: dense and sparse rows of
a step in one launch; with `items`, all but dense ones of many rows.

An item with `item_list` >= 0 is of that decode row: its keys [low, high) are places in the row's
list, which the selection wrote before. Whatever lies past the list's end is nobody's. All others
are items of `attention_parts`, and their code is that kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ..attention.join import LOWEST, UNSEEN
from ..attention.parts import MANY, Parts, _Parts
from ..selection.labels import Scores
from ..selection.tail import Tail


@dataclass(frozen=True)
class SparseParts(Parts):
    """The static shape: of `attention_parts`, whether lists hold tokens or pages, how the tail was
    scored (None: what is not read does not count), and how many keys of a list are read at a time
    (0: `keys`); with `slots` lists say where tokens lie in the pools, not their positions."""

    unit: str = "token"
    tail: Scores | None = None
    keys_listed: int = 0
    slots: bool = False

    @property
    def product(self) -> str:
        """The queries' format: rows of a list are widened as they come."""
        return self.q

    @property
    def listed(self) -> int:
        """How many keys of a list are read at a time."""
        return self.keys_listed or self.keys

    @property
    def of_many(self) -> Parts:
        """The shape of the launch for the list's other items, dense ones of many rows."""
        dense: dict[str, Any] = {name: getattr(self, name) for name in Parts.__dataclass_fields__}
        return replace(Parts(**dense), items=MANY)

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        tail = f"_tail_{self.tail.labels.channels}_{self.tail.labels.format}" if self.tail else ""
        tail += "_words" if self.tail and self.tail.words else ""
        unit = "slot" if self.slots else self.unit
        name = super().name.replace("attention_parts", f"sparse_parts_{unit}{tail}")
        return name + (f"_by{self.keys_listed}" if self.keys_listed else "")


def sparse_parts(shape: SparseParts) -> Operation:
    """Return the kernel. Arguments: those of `attention_parts`, then B, C, item_list [W], row_page,
    base, kv_lengths [B], chosen [K, C], counts [B, K]; see `labels.Scores`, flat. With a tail, then
    what `tail.Tail` declares; its weight stands in the first part of a list.
    """
    return _SparseParts(shape).kernel()


class _SparseParts(_Parts):
    def __init__(self, shape: SparseParts) -> None:
        super().__init__(shape)
        self.sparse, b = shape, self.b
        count, _ = (b.scalar(extent) for extent in ("B", "C"))
        self.list = b.buffer("item_list", "i32", "W")
        self.places = [b.buffer(n, "i32", "B") for n in ("row_page", "base", "kv_lengths")]
        self.chosen = b.buffer("chosen", "i32", shape.kv_heads, "C")
        self.counts = b.buffer("counts", "i32", "B", shape.kv_heads)
        self.tail = Tail(b, shape.tail, count) if shape.tail else None

    def kernel(self) -> Operation:
        """Dense items as they are; of items with a list the dense code sees no rows."""
        b, s = self.b, self.shape
        item = self.open_item()
        owner = b.load(self.list, item, hint="owner")
        row = b.map("max(a, 0)", owner, dtype="i32", hint="owner")
        self.placed = tuple(b.load(buffer, row, hint=buffer.name) for buffer in self.places)
        self._place_row()
        self.channel = b.expand(b.iota(s.head_dim), 0)
        zero = b.full(0, "i32")
        most = s.rows_few if s.items else 1 << 30
        kind = b.map(f"where(a >= 0, 2, where(b <= {most}, 1, 0))", owner, self.count, dtype="i32",
                     hint="kind")  # fmt: skip
        small = b.map("where(a == 1, 1, 0)", kind, dtype="i32", hint="small")
        with self._only(zero, small):
            self._item(s.few, s.keys)
        listed = b.map("where(a == 2, 1, 0)", kind, dtype="i32", hint="listed")
        with self._only(zero, listed):
            self._chosen(row)
        given = (*self.items, *self.rows, self.list, *self.places)
        return b.finish(s.kv_heads, "W", requires=self._facts(), of="graph.partial", given=given)

    def _place_row(self) -> None:
        """Read where the item's first row stands, by head of the group, before it is known whether
        there is a list: nothing of this waits for the kernel before."""
        b, s = self.b, self.shape
        lane = b.iota(s.few // s.group * s.group)
        live = b.map(f"a < min(b, 1) * {s.group}", lane, self.count, dtype="bool", hint="live")
        place = b.map("a + 0 * b", self.first, lane, dtype="i32", hint="place")
        query, slot = (
            b.load(buffer, place, mask=live, other=other, hint=buffer.name[4:])
            for buffer, other in ((self.rows[0], 0), (self.rows[2], -1))
        )
        self.row = lane, live, query, slot

    def _facts(self) -> tuple[str, ...]:
        whole = f"(kv_lengths[i] + {self.shape.page - 1}) // {self.shape.page}"
        return (*super()._facts(), "B >= 1", "-1 <= item_list[*] < B", "0 <= row_page[*]",
                "0 <= kv_lengths[*]", "0 <= base[*]", f"row_page[i] + {whole} <= E",
                f"base[i] + {whole} * {self.shape.page} <= C")  # fmt: skip

    def _chosen(self, owner: Value) -> None:
        """Attend with the item's one row over its part of the row's list."""
        b, s = self.b, self.shape
        entry, self.start, self.length = self.placed
        count = b.load(self.counts, owner, self.kv_head, hint="chosen_count")
        self.count_listed = count
        unit = s.page if self.sparse.unit == "page" else 1
        text = f"max(min(min(a, b * {unit}), (c + {unit - 1}) // {unit} * {unit}), 0)"
        self.end = b.map(text, self.high, count, self.length, dtype="i32", hint="end")
        self.entry, self.lane = entry, b.iota(self.sparse.listed)
        lane, live, query, slot = self.row
        lanes = self._lanes(lane)
        self.tile = lanes.read(b, self.q, query, live)
        if self.tail:
            self._enter(self.tail, owner, query, lanes.head, live)
        self.results.store(b, lanes, (query, slot, live), self._over_list())

    def _enter(self, tail: Tail, owner: Value, query: Value, head: Value, live: Value) -> None:
        """Have the tail read what it needs of the row."""
        b, s = self.b, self.shape
        channel = b.expand(b.iota(tail.shape.labels.channels), 0)
        column = b.map(f"a * {s.head_dim} + b", b.expand(head, 1), channel, dtype="i32",
                       hint="column")  # fmt: skip
        q_label = b.load(self.q, b.expand(query, 1), column, mask=b.expand(live, 1), dtype="f32",
                         hint="q_label")  # fmt: skip
        q, q_label = (b.map(f"f32(a) * {s.factor!r}", x, hint="scaled")
                      for x in (self.tile, q_label))  # fmt: skip

        def page_at(number: Value, mask: Value) -> Value:
            entry = b.map("a + b", self.entry, number, dtype="i32", hint="entry")
            return b.load(self.table, entry, mask=mask, hint="page_id")

        tail.enter(owner, self.kv_head, head, self.length, q, q_label, page_at)

    def _over_list(self) -> tuple[Value, ...]:
        """Return the state of the tile over the item's part of the list, its tail with it.

        Keys and pages of a round are looked up in it: Triton's pipeline runs such loads ahead, and
        fails on loops that carry them.
        """
        b, s = self.b, self.shape
        heads = extents_of(self.tile.type)[0]
        start = (b.full(LOWEST, "f32", heads), b.full(0.0, "f32", heads),
                 b.full(0.0, "f32", heads, s.head_dim))  # fmt: skip
        start += (b.full(0.0, "f32", heads, self.sparse.listed),) if self.tail else ()
        with b.loop(self.low, self.end, *start, step=self.sparse.listed, hint="block") as loop:
            top, total, acc, *read = loop.carried
            key, page = self._keys_at(loop.index)
            place = b.map("a + b", loop.index, self.lane, dtype="i32", hint="place")
            inside = b.map("a < b", place, self.end, dtype="bool", hint="inside")
            if not self.sparse.slots:
                inside = b.map("a & (b < c)", inside, key, self.length, dtype="bool", hint="inside")
            offset = b.map(f"a % {s.page}", key, dtype="i32", hint="offset")
            rows = (b.expand(page, 1), self.kv_head, b.expand(offset, 1), self.channel)
            seen = b.expand(inside, 1)
            k = self._half(b.load(self.k_pool, *rows, mask=seen, hint="keys"))
            blank = b.full(0.0, "f32", heads, self.sparse.listed)
            scores = b.dot(self.tile, k, blank, transpose_b=True)
            scores = b.map(f"where(b, a, {UNSEEN})", scores, b.expand(inside, 0), dtype="f32",
                           hint="scores")  # fmt: skip
            best = b.reduce("max", scores, 1, hint="best")
            higher = b.map(f"max(a, b * {s.factor!r})", top, best, hint="higher")
            weights = b.map(f"exp2(a * {s.factor!r} - b)", scores, b.expand(higher, 1),
                            hint="weights")  # fmt: skip
            fade = b.map("exp2(a - b)", top, higher, hint="fade")
            total = b.map("a * b + c", total, fade, b.reduce("sum", weights, 1), hint="total")
            faded = b.map("a * b", acc, b.expand(fade, 1), hint="faded")
            v = self._half(b.load(self.v_pool, *rows, mask=seen, hint="values"))
            acc = b.dot(self._half(weights), v, faded)
            if self.tail:
                where = place if self.sparse.slots else key
                more = self._labelled(self.tail, where, page, offset, inside)
                read = [b.map("a + b", read[0], more, hint="read")]
            loop.yields(higher, total, acc, *read)
        if self.tail is None:
            return tuple(loop.results)
        first = b.map("a == 0", self.low, dtype="bool", hint="first")
        read = b.reduce("sum", loop.results[3], 1, hint="read")
        return self.tail.join(tuple(loop.results[:3]), read, first)

    def _labelled(
        self, tail: Tail, key: Value, page: Value, offset: Value, inside: Value
    ) -> Value:  # fmt: skip
        """Return the label weights of a block of keys [h, n], by position or, of slots, by place in
        the list; the rows of k are at hand."""
        b = self.b
        channel = b.expand(b.iota(tail.shape.labels.channels), 0)
        k = b.load(self.k_pool, b.expand(page, 1), self.kv_head, b.expand(offset, 1), channel,
                   mask=b.expand(inside, 1), dtype="f32", hint="k_label")  # fmt: skip
        return tail.read(key, inside, k, self.count_listed if self.sparse.slots else None)

    def _keys_at(self, block: Value) -> tuple[Value, Value]:
        """Return the positions and pages of a block of the list; what a list says is kept within
        the row, whatever stands there."""
        b, s = self.b, self.shape
        unit = s.page if self.sparse.unit == "page" else 1
        place = b.map("a + b", block, self.lane, dtype="i32", hint="place")
        inside = b.map("a < b", place, self.end, hint="inside")
        at = b.map(f"a + b // {unit}", self.start, place, dtype="i32", hint="at")
        key = b.load(self.chosen, self.kv_head, at, mask=inside, hint="chosen")
        if self.sparse.slots:
            text = f"max(min(a // {s.page}, b - 1), 0)"
            page = b.map(text, key, self.pool_pages, dtype="i32", hint="page_id")
            return b.map("max(a, 0)", key, dtype="i32", hint="key"), page
        key = b.map(f"a * {unit} + b % {unit}", key, place, dtype="i32", hint="key")
        index = b.map(f"max(min(a, b - 1), 0) // {s.page}", key, self.length, dtype="i32",
                      hint="index")  # fmt: skip
        page = b.load(self.table, b.map("a + b", self.entry, index, dtype="i32"), mask=inside,
                      hint="page_id")  # fmt: skip
        return b.map("max(a, 0)", key, dtype="i32", hint="key"), page
