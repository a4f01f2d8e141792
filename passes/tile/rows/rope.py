"""The kernel between the QKV projection and attention: head norms, rotation, the write to pages."""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ..builder import KernelBuilder
from .elementwise import of_format

E4M3_MOST = 448.0
"""The largest number of f8e4m3."""


@dataclass(frozen=True)
class Heads:
    """The static shape of a layer's attention: heads H, kv heads K, head width C, page size P."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int


def qkv_rope_write(
    shape: Heads, max_position: int, kv: str = "f32", norm_eps: float | None = None,
    dtype: str = "f32", ordered: bool = False, guess: bool = False, apart: bool = False,
    cuts: int = 1,
) -> Operation:  # fmt: skip
    """Return the kernel that rotates q and k and writes k and v into their pages.

    Arguments: T, N, qkv [T, (H + 2K) * C], cos, sin [max_position, C / 2], positions [T],
    slots [T] (page * P + offset; -1 writes nothing), q [T, H * C], k_pool, v_pool [N, K, P, C],
    and with `norm_eps` (Qwen3): q_norm, k_norm [C]. The halves of a head rotate against each
    other, as in Hugging Face's checkpoints. `ordered`: last place [K, C], where each channel of
    q and k goes, by key head. A `guess` makes q alone: the same arguments, but N, slots and pools.
    A program has a token, or where that is `apart` a key head of one and the heads that share it.
    Of a product in several `cuts` it adds these in f32: qkv is [cuts, T, (H + 2K) * C].
    """
    return _RopeWrite(
        shape, max_position, kv, norm_eps, dtype, ordered, guess, apart, cuts
    ).kernel()  # fmt: skip


class _RopeWrite:
    """Builds the kernel: tiles [heads, C / 2]."""

    def __init__(
        self, shape: Heads, max_position: int, kv: str, eps: float | None, dtype: str,
        ordered: bool, guess: bool, apart: bool, cuts: int,
    ) -> None:  # fmt: skip
        self.shape, self.eps, self.kv, self.guess, self.cuts = shape, eps, kv, guess, cuts
        h, k, c = shape.heads, shape.kv_heads, shape.head_dim
        self.half = c // 2
        name = "query_rope" if guess else "qkv_rope_order" if ordered else "qkv_rope_write"
        self.programs = k if apart else 1
        tail = of_format(dtype) + "_apart" * apart + f"_parts{cuts}" * (cuts > 1)
        b = self.b = KernelBuilder(f"{name}_{h}_{k}_{c}_{kv}{tail}")
        b.scalar("T")
        if not guess:
            b.scalar("N")
        self.max_position = max_position
        self.qkv = b.buffer("qkv", dtype, *([cuts] if cuts > 1 else []), "T", (h + 2 * k) * c)
        self.cos = b.buffer("cos", "f32", max_position, self.half)
        self.sin = b.buffer("sin", "f32", max_position, self.half)
        self.positions = b.buffer("positions", "i32", "T")
        if not guess:
            self.slots = b.buffer("slots", "i32", "T")
        self.q = b.buffer("q", dtype, "T", h * c)
        if not guess:
            self.k_pool = b.buffer("k_pool", kv, "N", k, shape.page, c)
            self.v_pool = b.buffer("v_pool", kv, "N", k, shape.page, c)
        self.norms = [b.buffer(n, "f32", c) for n in ("q_norm", "k_norm")] if eps else [None, None]
        self.place = b.buffer("place", "i32", k, c) if ordered else None

    def kernel(self) -> Operation:
        b, shape = self.b, self.shape
        self.token = b.program_id(0, "token")
        self.part = b.program_id(1, "part") if self.programs > 1 else None
        self.low = b.expand(b.iota(self.half), 0)
        self.high = b.map(f"a + {self.half}", self.low, hint="high")
        position = b.load(self.positions, self.token)
        self.c, self.s = b.load(self.cos, position, self.low), b.load(self.sin, position, self.low)
        loaded = self._loaded()
        self._write_query(*loaded[0])
        facts: tuple[str, ...] = ("T >= 0", f"0 <= positions[*] < {self.max_position}")
        if not self.guess:
            slot = b.load(self.slots, self.token)
            self._write_keys(slot, *loaded[1])
            self._to_page(self.v_pool, slot, *loaded[2])
            facts = ("T >= 0", "N >= 0", *facts[1:], f"-1 <= slots[*] < N * {shape.page}")
        if self.place is not None:
            facts = (*facts, f"0 <= place[*] < {shape.head_dim}")
        given = [self.cos, self.sin, self.positions, *([] if self.guess else [self.slots])]
        given += [norm for norm in self.norms if norm is not None]
        grid = ("T", self.programs) if self.programs > 1 else ("T",)
        return b.finish(*grid, requires=facts, of="graph.qkv_rope_write", given=given)

    def _heads(self, count: int) -> Value:
        """Return those of so many heads that are this program's, [heads, 1]."""
        own = count // self.programs
        head = self.b.iota(own)
        if self.part is not None:
            head = self.b.map(f"a * {own} + b", self.part, head, dtype="i32", hint="head")
        return self.b.expand(head, 1)

    def _loaded(self) -> list[tuple[Value, ...]]:
        """Return heads and both rotated halves of q and, but for a guess, of k; and of v its heads,
        channels and values. All is read before the first store, so that no read waits for it."""
        b, shape = self.b, self.shape
        head = self._heads(shape.heads)
        found: list[tuple[Value, ...]] = [(head, *self._rotated(head, self.norms[0]))]
        if self.guess:
            return found
        head = self._heads(shape.kv_heads)
        after_q = b.map(f"a + {shape.heads}", head)
        found.append((head, *self._rotated(after_q, self.norms[1])))
        after_k = b.map(f"a + {shape.heads + shape.kv_heads}", head)
        channel = b.expand(b.iota(shape.head_dim), 0)
        value = self._added(after_k, channel, "value")
        return [*found, (head, channel, value)]

    def _write_query(self, head: Value, first: Value, second: Value) -> None:
        shape = self.shape
        for channel, value in ((self.low, first), (self.high, second)):
            column = self._column(head, self._placed(head, channel, shape.heads // shape.kv_heads))
            self.b.store(self.q, self.token, column, value)

    def _write_keys(self, slot: Value, head: Value, first: Value, second: Value) -> None:
        self._to_page(self.k_pool, slot, head, self._placed(head, self.low), first)
        self._to_page(self.k_pool, slot, head, self._placed(head, self.high), second)

    def _placed(self, head: Value, channel: Value, group: int = 1) -> Value:
        """Return where channels of heads go; `group` of them share a key head."""
        if self.place is None:
            return channel
        head = head if group == 1 else self.b.map(f"a // {group}", head, hint="of")
        return self.b.load(self.place, head, channel, hint="placed")

    def _to_page(self, pool: Value, slot: Value, head: Value, channel: Value, value: Value) -> None:
        b, page = self.b, self.shape.page
        if self.kv == "f8e4m3":  # a number that is too large would be none
            value = b.map(f"min(max(a, {-E4M3_MOST}), {E4M3_MOST})", value, dtype="f32")
        where = b.map(f"max(a, 0) // {page}", slot, hint="page")
        offset = b.map(f"max(a, 0) % {page}", slot, hint="offset")
        b.store(pool, where, head, offset, channel, value, mask=b.map("a >= 0", slot))

    def _added(self, head: Value, channel: Value, hint: str) -> Value:
        """Return channels of some heads of qkv, whose parts are added."""
        b, column = self.b, self._column(head, channel)
        cuts = [[b.full(cut, "i32")] for cut in range(self.cuts)] if self.cuts > 1 else [[]]
        total, *others = (b.load(self.qkv, *cut, self.token, column, dtype="f32", hint=hint)
                          for cut in cuts)  # fmt: skip
        for other in others:
            total = b.map("a + b", total, other, hint=hint)
        return total

    def _column(self, head: Value, channel: Value) -> Value:
        return self.b.map(f"a * {self.shape.head_dim} + b", head, channel, hint="column")

    def _rotated(self, head: Value, norm: Value | None) -> tuple[Value, Value]:
        """Return both halves of some heads of qkv, normed if asked, then rotated."""
        b = self.b
        x, y = self._added(head, self.low, "x"), self._added(head, self.high, "y")
        if norm is not None:
            scale = self._inverse_rms(x, y)
            x = b.map("a * b * c", x, scale, b.load(norm, self.low), dtype="f32")
            y = b.map("a * b * c", y, scale, b.load(norm, self.high), dtype="f32")
        first = b.map("a * c - b * d", x, y, self.c, self.s, hint="first")
        return first, b.map("b * c + a * d", x, y, self.c, self.s, hint="second")

    def _inverse_rms(self, x: Value, y: Value) -> Value:
        b = self.b
        square = b.map("a * a + b * b", x, y, hint="square")
        total = b.expand(b.reduce("sum", square, 1, hint="total"), 1)
        return b.map(f"rsqrt(a / {float(self.shape.head_dim)} + {self.eps!r})", total)
