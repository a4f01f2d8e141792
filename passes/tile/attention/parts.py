"""Attention over a flat work list: any parts of any sequences' keys, then a merge.

An item of the list is a run of keys and the query rows that see it. A sequence's own keys, a
prefix that many sequences share, the split of a long context and a window are all items, so one
list serves decode, a cascade over any tree of prefixes, and prefill over a cached prefix. Rows of
several sequences, and the query heads of a key head, are packed into one tile: what they share is
read once. Items of many rows and those of few are two launches that run side by side: large tiles
keep the tensor cores busy, and small programs, of which a multiprocessor holds several, the memory.
A row that is in one item only is finished there; the others leave states (m, l, acc) in slots,
which `attention_join` joins. `runtime.attention.plan` makes the lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ..builder import KernelBuilder
from .join import LOWEST, QUOTIENT, UNSEEN, States
from .paged import LOG2E
from .tile_rows import Lanes, Results, listed

SMALL = 16
"""Query heads up to which a tile's products are those of single warps."""

MANY, FEW, ALL = "many", "few", "all"
"""The items of a list that a kernel reads: those of many rows, or of few; or all, by one tile."""


@dataclass(frozen=True)
class Parts:
    """The static shape of the kernel.

    `q` and `kv` are dtypes; `few` and `many` how many query heads (rows times group) the small and
    the large tile hold: an item takes the small one if its rows fit; `many = 0`: they all do.
    `keys` and `keys_many` are read at a time; both divide the page, or are whole pages.
    `window`: how many last keys a row sees (0: all). `way`: how it is scheduled, if not as usual
    (`attention_ways`). `items`: the launch is for those items of a list that the small tile holds
    (`FEW`), or for the others (`MANY`), or for both by the large one (`ALL`); without, all fit the
    small one. `joins`: a step has one row at most, and
    of each key head the program that comes last joins the states of all, so many slots at a time.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page: int = 16
    q: str = "bf16"
    kv: str = "bf16"
    scale: float = 0.0
    window: int = 0
    few: int = 16
    many: int = 64
    keys: int = 64
    keys_many: int = 64
    way: str = field(default="", kw_only=True)
    items: str = field(default="", kw_only=True)
    joins: int = field(default=0, kw_only=True)

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads

    @property
    def product(self) -> str:
        """The format in which products are formed: the queries', but f16 beside keys of f8e4m3,
        which it holds exactly and a GPU widens to in one instruction (to bf16 it takes four)."""
        return "f16" if (self.q, self.kv) == ("bf16", "f8e4m3") else self.q

    @property
    def factor(self) -> float:
        """What scores are multiplied by, for exp2; the default scale is 1 / sqrt(C)."""
        return (self.scale or self.head_dim**-0.5) * LOG2E

    @property
    def rows_few(self) -> int:
        """How many query rows the small tile holds."""
        return max(1, self.few // self.group)

    @property
    def rows_many(self) -> int:
        """How many query rows an item may have."""
        return max(self.rows_few, self.many // self.group)

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        name = f"attention_parts_{self.heads}_{self.kv_heads}_{self.head_dim}_{self.page}"
        name += f"_{self.q}_{self.kv}_{self.few}x{self.keys}"
        name += f"_{self.many}x{self.keys_many}" if self.many and self.items != FEW else ""
        name += f"_{self.way}" if self.way else ""
        name += f"_window{self.window}" if self.window else ""
        name += "_joined" * (self.joins > 0)
        return name + (f"_{self.items}" if self.items else "")


def attention_parts(shape: Parts) -> Operation:
    """Return the kernel of a work list.

    Arguments: T, N, W items, R item rows, E page entries, S slots; q [T, H * C]; of each item
    its first row and number of rows in the row lists, its first entry in `pages`, and its keys
    [low, high) counted from there: item_row, item_rows, item_page, item_low, item_high [W]; of
    each item row its query, how many keys (counted likewise) it sees, and its slot, or -1 if it
    is finished here: row_query, row_limit, row_slot [R]; pages [E]; k, v [N, K, P, C]; out
    [T, H * C]; m, l [S, H] and acc [S, H, C], f32. For items of many rows there is M too: those
    stand among the first M of the list, 0 <= M <= W. One that `joins` also has G <= 1, G1 = G + 1,
    merge_query [G], merge_start [G1] (see `attention_join`), and arrived [K] i32: zeros, as which
    each launch leaves them.
    """
    return _Parts(shape).kernel()


class PartsBuilder:
    """What kernels of attention over pages share: a tile's state over a run of keys.

    `declare` sets the arguments; before `_keys` the key head, the run's first entry in the page
    table (`base`), its keys [low, high) and the channels are set.
    """

    kv_head: Value
    base: Value
    low: Value
    high: Value
    channel: Value
    table: Value

    def __init__(self, shape: Parts, name: str = "") -> None:
        self.shape = shape
        self.b = KernelBuilder(name or shape.name)
        self.declare()

    def declare(self) -> None:
        """Declare the kernel's arguments."""
        raise NotImplementedError

    def declare_pools(self) -> None:
        """Declare the pages of keys and values."""
        s = self.shape
        pool = ("N", s.kv_heads, s.page, s.head_dim)
        self.k_pool, self.v_pool = (self.b.buffer(name, s.kv, *pool) for name in "kv")

    def _keys(
        self, q: Value, keys: int, seen: tuple[Value | None, Value], whole: Value | None
    ) -> tuple[Value, ...]:  # fmt: skip
        """Return the state (maximum, sum, weighted values) of the tile over the item's keys.

        Each round looks up the pages of the next one: no load of keys waits for another load.
        The small tile, whose rows are spread over warps, sums its weights lane by lane first.
        """
        b = self.b
        heads = extents_of(q.type)[0]
        self.lane, self.tile, small = b.iota(keys), q, heads <= SMALL
        sums = (heads, keys) if small else (heads,)
        state = [*self._begun(*sums), *self._pages(self.low)]
        start = self.low
        if whole is not None:
            state = self._blocks(start, whole, None, state)
            start = whole
        top, total, acc, *_ = self._blocks(start, self.high, seen, state)
        total = b.reduce("sum", total, 1, hint="total") if small else total
        return top, total, acc

    def _begun(self, *sums: int) -> list[Value]:
        """Return a tile's state before its first key, whose sums of weights are so many."""
        b = self.b
        return [b.full(LOWEST, "f32", sums[0]), b.full(0.0, "f32", *sums),
                b.full(0.0, "f32", sums[0], self.shape.head_dim)]  # fmt: skip

    def _blocks(
        self, low: Value, high: Value, seen: tuple[Value | None, Value] | None, state: list[Value]
    ) -> list[Value]:
        """Return the state after the keys [low, high); without `seen` all rows see all of them."""
        b = self.b
        keys = extents_of(self.lane.type)[0]
        with b.loop(low, high, *state, step=keys, hint="block") as loop:
            top, total, acc, *pages = loop.carried
            after = b.map(f"a + {keys}", loop.index, dtype="i32", hint="after")
            key = b.map("a + b", loop.index, self.lane, dtype="i32", hint="key")
            at = self._at(loop.index, pages)
            scores = self._scores(at)
            scores = self._seen(scores, b.expand(key, 0), seen) if seen else scores
            inside = b.expand(b.map("a < b", key, self.high, hint="inside"), 1) if seen else None
            now = self._more(scores, at, inside, (top, total, acc))
            loop.yields(*now, *self._pages(after))
        return loop.results

    def _more(
        self, scores: Value, at: tuple[Value, ...], inside: Value | None, state: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Return the state after a block of keys of these scores, whose values are read `inside`
        only."""
        b, s, (top, total, acc) = self.b, self.shape, state
        best = b.reduce("max", scores, 1, hint="best")
        higher = b.map(f"max(a, b * {s.factor!r})", top, best, hint="higher")
        weights = b.map(f"exp2(a * {s.factor!r} - b)", scores, b.expand(higher, 1),
                        hint="weights")  # fmt: skip
        fade = b.map("exp2(a - b)", top, higher, hint="fade")
        if len(extents_of(total.type)) > 1:
            total = b.map("a * b + c", total, b.expand(fade, 1), weights, hint="total")
        else:
            more = b.reduce("sum", weights, 1, hint="more")
            total = b.map("a * b + c", total, fade, more, hint="total")
        faded = b.map("a * b", acc, b.expand(fade, 1), hint="faded")
        v = self._half(b.load(self.v_pool, *at, mask=inside, hint="values"))
        return higher, total, b.dot(self._half(weights), v, faded)

    def _scores(self, at: tuple[Value, ...]) -> Value:
        """Return the products of the tile with a block of keys; past the end, with any keys."""
        b = self.b
        k = self._half(b.load(self.k_pool, *at, hint="keys"))
        blank = b.full(0.0, "f32", *extents_of(self.tile.type)[:1], *extents_of(self.lane.type))
        return b.dot(self.tile, k, blank, transpose_b=True)

    def _at(self, block: Value, pages: Sequence[Value]) -> tuple[Value, ...]:
        """Return the indices of a block's keys in a pool: it begins with a page, or divides one."""
        b, page = self.b, self.shape.page
        keys = extents_of(self.lane.type)[0]
        number, offset = pages[-1], self.lane
        if keys > page:
            for place in range(len(pages) - 2, -1, -1):
                text = f"where(a < {(place + 1) * page}, b, c)"
                number = b.map(text, self.lane, pages[place], number, dtype="i32", hint="page_id")
            offset = b.map(f"a % {page}", self.lane, dtype="i32", hint="offset")
        elif keys < page:
            text = f"min(a % {page}, {page - keys}) + b"
            offset = b.map(text, block, self.lane, dtype="i32", hint="offset")
        number = b.expand(number, 1) if extents_of(number.type) else number
        return number, self.kv_head, b.expand(offset, 1), self.channel

    def _pages(self, block: Value) -> list[Value]:
        """Return the pages of a block of keys, one by one; page 0 past the end."""
        b, page = self.b, self.shape.page
        keys = extents_of(self.lane.type)[0]
        found = []
        for first in range(0, keys, page):
            key = b.map(f"a + {first}", block, dtype="i32", hint="key") if first else block
            entry = b.map(f"a + b // {page}", self.base, key, dtype="i32", hint="entry")
            inside = b.map("a < b", key, self.high, hint="inside")
            found.append(b.load(self.table, entry, mask=inside, hint="page_id"))
        return found

    def _lanes(self, lane: Value) -> Lanes:
        """Return the query heads of a tile's lanes [L]."""
        return Lanes.of(self.b, self.shape, self.kv_head, lane, self.channel)

    def _half(self, value: Value) -> Value:
        """Return a tile in the format in which products are formed."""
        same = value.type.parameters[0].name == self.shape.product  # type: ignore[union-attr]
        return value if same else self.b.map("a", value, dtype=self.shape.product, hint=value.name)

    def _seen(self, scores: Value, key: Value, seen: tuple[Value | None, Value]) -> Value:
        first, end = seen
        if first is None:
            return self.b.map(f"where(b < c, a, {UNSEEN})", scores, key, end, hint="scores")
        text = f"where((b < c) & (b >= d), a, {UNSEEN})"
        return self.b.map(text, scores, key, end, first, hint="scores")


class _Parts(PartsBuilder):
    def declare(self) -> None:
        s, b = self.shape, self.b
        extents = ("T", "N", "W", "R", "E", "S", *("M" * (s.items in (MANY, ALL))))
        self.extents = {extent: b.scalar(extent) for extent in extents}
        self.pool_pages = self.extents["N"]
        self.q = b.buffer("q", s.q, "T", s.heads * s.head_dim)
        self.items = [b.buffer(f"item_{name}", "i32", "W")
                      for name in ("row", "rows", "page", "low", "high")]  # fmt: skip
        self.rows = [b.buffer(f"row_{name}", "i32", "R") for name in ("query", "limit", "slot")]
        self.table = b.buffer("pages", "i32", "E")
        self.declare_pools()
        out = b.buffer("out", s.q, "T", s.heads * s.head_dim)
        m, l = b.buffer("m", "f32", "S", s.heads), b.buffer("l", "f32", "S", s.heads)  # noqa: E741
        self.results = Results(m, l, b.buffer("acc", "f32", "S", s.heads, s.head_dim), out)
        if s.joins:
            self.joined, _ = (b.scalar(extent) for extent in ("G", "G1"))
            self.merged = b.buffer("merge_query", "i32", "G"), b.buffer("merge_start", "i32", "G1")
            self.arrived = b.buffer("arrived", "i32", s.kv_heads)

    def open_item(self) -> Value:
        """Return which item a program has, once its key head and what the item says are read."""
        b = self.b
        self.kv_head, item = b.program_id(0, "kv_head"), b.program_id(1, "item")
        names = ("first", "count", "page", "low", "high")
        self.first, self.count, self.base, self.low, self.high = (
            b.load(buffer, item, hint=name) for buffer, name in zip(self.items, names, strict=True)
        )
        return item

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        self.open_item()
        self.channel = b.expand(b.iota(s.head_dim), 0)
        if not s.items:
            self._item(s.few, s.keys)
        elif s.items == ALL:
            self._item(s.many, s.keys_many)
        else:
            small = b.map(f"where(a <= {s.rows_few}, 1, 0)", self.count, dtype="i32", hint="small")
            if s.items == FEW:
                with self._only(b.full(0, "i32"), small):
                    self._item(s.few, s.keys)
            else:
                with self._only(small, b.full(1, "i32")):
                    self._item(s.many, s.keys_many)
        grid = "M" if s.items == MANY else "W"
        given = (*self.items, *self.rows, self.table)
        given += self._joined()
        return b.finish(s.kv_heads, grid, requires=self._facts(), of="graph.partial", given=given,
                        items=s.items, way=s.way)  # fmt: skip

    def _facts(self) -> tuple[str, ...]:
        s = self.shape
        first = ["0 <= M <= W"] if "M" in self.extents else []
        first += (
            ["G1 == G + 1", "0 <= G <= 1", "0 <= merge_start[*] <= S", "-1 <= merge_query[*] < T"]
            if s.joins
            else []
        )
        return (
            *first, "W >= 0", "N >= 1", "0 <= item_row[*]", "0 <= item_rows[*]",
            "0 <= item_page[*]", "0 <= item_low[*]", f"item_low[i] % {s.page} == 0",
            "item_row[i] + item_rows[i] <= R",
            f"item_page[i] + (item_high[i] + {s.page - 1}) // {s.page} <= E",
            "0 <= pages[*] < N", "0 <= row_query[*] < T", "-1 <= row_slot[*] < S",
        )  # fmt: skip

    def _joined(self) -> tuple[Value, ...]:
        """Let the last program of a key head join the row's states, if it has several; return the
        lists that say so. Nothing, where another launch does."""
        b, s = self.b, self.shape
        if not s.joins:
            return ()
        none = b.full(0, "i32")
        row = b.full(0, "i32")
        query, start = self.merged
        there = b.map("a > 0", self.joined, hint="there")
        token = b.load(query, row, mask=there, other=-1, hint="token")
        low, high = (b.load(start, row if n == 0 else b.full(1, "i32"), mask=there, hint=hint)
                     for n, hint in enumerate(("low", "high")))  # fmt: skip
        with self._only(none, self.joined):
            last = b.last(self.arrived, self.kv_head, axis=1)
            with self._only(none, last):
                head = b.map(f"a * {s.group} + b", self.kv_head, b.iota(s.group), dtype="i32",
                             hint="head")  # fmt: skip
                into = self.results
                states = States(b, into.m, into.l, into.acc, head, self.channel)
                total, summed = states.joined(low, high, s.joins)
                column = b.map(f"a * {s.head_dim} + b", b.expand(head, 1), self.channel,
                               dtype="i32", hint="column")  # fmt: skip
                named = b.map("a >= 0", token, hint="named")
                result = b.map(QUOTIENT, summed, b.expand(total, 1), hint="result")
                b.store(into.out, token, column, result, mask=named)
        return self.merged

    @contextmanager
    def _only(self, low: Value, high: Value) -> Iterator[None]:
        """Run what follows once if low < high: a loop of at most one round is a condition."""
        with self.b.loop(low, high, hint="once") as loop:
            yield
            loop.yields()

    def _item(self, heads: int, keys: int) -> None:
        """Attend with a tile of `heads` query heads, `keys` keys at a time."""
        b, s = self.b, self.shape
        lane = b.iota(heads // s.group * s.group)
        place = b.map(f"a // {s.group}", lane, dtype="i32", hint="place")
        live = b.map("a < b", place, self.count, hint="live")
        place = b.map("a + b", self.first, place, dtype="i32", hint="place")
        query, limit, slot = listed(b, self.rows, place, live)
        lanes = self._lanes(lane)
        q = self._half(lanes.read(b, self.q, query, live))
        end = b.map("min(a, b)", limit, self.high, dtype="i32", hint="end")
        whole = self._whole(live, end, keys) if heads > SMALL and not s.window else None
        first = b.map(f"a - {s.window}", b.expand(limit, 1), dtype="i32") if s.window else None
        state = self._keys(q, keys, (first, b.expand(end, 1)), whole)
        self.results.store(b, lanes, (query, slot, live), state)

    def _whole(self, live: Value, end: Value, keys: int) -> Value:
        """Return up to where blocks of keys are seen by every row, so that none needs a mask."""
        b = self.b
        seen = b.map("where(a, b, c)", live, end, self.high, dtype="i32")
        text = f"a + max(b - a, 0) // {keys} * {keys}"
        return b.map(text, self.low, b.reduce("min", seen, 0), dtype="i32", hint="whole")
