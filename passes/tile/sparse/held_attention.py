"""Decode attention over rows of a cache (`key_cache`): lists say in which row each key stands.

The arithmetic, and its order, is that of `gathered` and of `sparse_parts` over the same lists: only
where a key lies differs, so results are the same, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ..builder import KernelBuilder
from .gathered import Gathered, _Gathered
from .sparse_parts import SparseParts, _SparseParts


def held_decode(shape: Gathered) -> Operation:
    """Return attention of one query a sequence over rows of a cache.

    Arguments: B, L, HP, q [B, H * C], kv_lengths [B], rows [B, K, L], counts [B, K], held_k, held_v
    [HP, K, P, C], out [B, H * C].
    """
    return _Held(shape).kernel()


class _Held(_Gathered):
    def kernel(self) -> Operation:
        s: Gathered = self.shape  # type: ignore[assignment]
        b = self.b = KernelBuilder(s.name("held"))
        for extent in ("B", "L"):
            b.scalar(extent)
        self.pages = b.scalar("HP")
        width = s.heads * s.head_dim
        q = b.buffer("q", "f32", "B", width)
        lengths = b.buffer("kv_lengths", "i32", "B")
        self.chosen = b.buffer("rows", "i32", "B", s.kv_heads, "L")
        counts = b.buffer("counts", "i32", "B", s.kv_heads)
        self.k_pool, self.v_pool = (
            b.buffer(n, s.kv, "HP", s.kv_heads, s.page, s.head_dim) for n in ("held_k", "held_v")
        )
        out = b.buffer("out", "f32", "B", width)
        self.tail = None
        facts = ("B >= 0", "HP >= 1", "0 <= kv_lengths[*] <= L")
        return self.attend(q, lengths, counts, out, facts)

    def _tokens(self, entry: Value) -> tuple[Value, Value]:
        """Return the pages of the cache of a block of entries, and a position that those past the
        list's end have past the last key."""
        b, s = self.b, self.shape
        place = b.map("a + b", entry, self.offset, dtype="i32", hint="place")
        inside = b.map("a < b", place, self.count, hint="inside")
        row = b.load(self.chosen, self.sequence, self.kv_head, place, mask=inside, hint="row")
        row = b.map(f"max(min(a, b * {s.page} - 1), 0)", row, self.pages, dtype="i32", hint="row")
        self.slot = b.map(f"a % {s.page}", row, dtype="i32", hint="slot")
        key = b.map("where(a, 0, b)", inside, self.length, dtype="i32", hint="key")
        return b.map(f"a // {s.page}", row, dtype="i32", hint="page_id"), key


@dataclass(frozen=True)
class HeldParts(SparseParts):
    """The static shape of a work list whose lists name rows of a cache."""

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        return super().name.replace("sparse_parts", "held_parts")


def held_parts(shape: HeldParts) -> Operation:
    """Return the kernel of a work list. Arguments: those of `sparse_parts`, then HP, held_k, held_v
    [HP, K, P, C]; `chosen` [K, C] names rows of the cache, and dense items read k and v."""
    return _HeldParts(shape).kernel()


class _HeldParts(_SparseParts):
    def __init__(self, shape: HeldParts) -> None:
        super().__init__(shape)
        b = self.b
        self.pages = b.scalar("HP")
        row = (shape.kv_heads, shape.page, shape.head_dim)
        self.held = tuple(b.buffer(n, shape.kv, "HP", *row) for n in ("held_k", "held_v"))

    def _facts(self) -> tuple[str, ...]:
        return (*super()._facts(), "HP >= 1")

    def _over_list(self) -> tuple[Value, ...]:
        """Read the cache for as long as a list is attended to; a row says nothing of a position, so
        that the list's end alone bounds what is seen."""
        pools = self.k_pool, self.v_pool
        self.k_pool, self.v_pool = self.held
        self.length = self.b.full(1 << 30, "i32")
        state = super()._over_list()
        self.k_pool, self.v_pool = pools
        return state

    def _keys_at(self, block: Value) -> tuple[Value, Value]:
        """Return the rows of a block of the list, and their pages."""
        b, s = self.b, self.shape
        place = b.map("a + b", block, self.lane, dtype="i32", hint="place")
        inside = b.map("a < b", place, self.end, hint="inside")
        at = b.map("a + b", self.start, place, dtype="i32", hint="at")
        row = b.load(self.chosen, self.kv_head, at, mask=inside, hint="row")
        row = b.map(f"max(min(a, b * {s.page} - 1), 0)", row, self.pages, dtype="i32", hint="row")
        return row, b.map(f"a // {s.page}", row, dtype="i32", hint="page_id")
