"""A single row's q, k and v on a GPU: the stream of their weights, rotation, the write to pages.

The halves of a head rotate against each other, so a program has both rows of w that a pair of
channels comes from, and writes both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...ir.core import Operation, Value
from .builder import KernelBuilder
from .matvec import Builder, Matvec, suited
from .rope import E4M3_MOST, Heads


@dataclass(frozen=True)
class RopeMatvec(Matvec):
    """A `Matvec` of the pairs of channels of q, k and v: n = (H + 2K) * C / 2. `kv` is the format
    of the pages; positions are below `max_position`."""

    shape: Heads = field(default=Heads(0, 0, 0, 0))
    max_position: int = 0
    kv: str = "bf16"

    @staticmethod
    def of(shape: Heads, k: int, weight: str, x: str, max_position: int, kv: str, *,
           bias: bool = False, norm: float | None = None) -> RopeMatvec:  # fmt: skip
        """Return the kernel's shape for a model's heads, with blocks that suit a GPU."""
        pairs = (shape.heads + 2 * shape.kv_heads) * shape.head_dim // 2
        found = RopeMatvec(pairs, k, weight, x, x, bias, norm=norm, shape=shape,
                           max_position=max_position, kv=kv)  # fmt: skip
        return replace(suited(found), block_n=1)

    @property
    def halves(self) -> int:
        """Both channels of a pair."""
        return 2

    @property
    def name(self) -> str:
        """A name that tells the heads and formats."""
        h, formats = self.shape, dict.fromkeys((self.weight, self.x, self.kv))
        flags = "_bias" * self.bias + "_norm" * (self.norm is not None)
        heads = f"{h.heads}_{h.kv_heads}_{h.head_dim}"
        return f"rope_matvec_{heads}_{self.k}_{'_'.join(formats)}" + flags


def rope_matvec(shape: RopeMatvec) -> Operation:
    """Return the kernel. Arguments: T, N, x [T, K], w [(H + 2K) * C, K], cos, sin [max_position,
    C / 2], positions [T], slots [T] (page * P + offset; -1 writes nothing), q [T, H * C], k_pool,
    v_pool [N, K, P, C], then those of scale, bias and norm that it asks for, as in `matvec`.
    """
    return _RopeBuilder(shape).kernel()


class _RopeBuilder(Builder):
    """The stream's builder with rotation and the write to pages at its end."""

    shape: RopeMatvec

    def kernel(self) -> Operation:
        s, h, b = self.shape, self.shape.shape, KernelBuilder(self.shape.name)
        self.b, self.half = b, h.head_dim // 2
        b.scalar("T")
        b.scalar("N")
        self.read()
        angles = [b.buffer(name, "f32", s.max_position, self.half) for name in ("cos", "sin")]
        positions, slots = (b.buffer(name, "i32", "T") for name in ("positions", "slots"))
        q = b.buffer("q", s.out, "T", h.heads * h.head_dim)
        pools = [b.buffer(name, s.kv, "N", h.kv_heads, h.page, h.head_dim)
                 for name in ("k_pool", "v_pool")]  # fmt: skip
        self.parts()
        self.enter()
        self.head = b.map(f"a // {self.half}", self.column, dtype="i32", hint="head")
        self.low = b.map(f"a % {self.half}", self.column, dtype="i32", hint="low")
        position, slot = b.load(positions, self.row), b.load(slots, self.row, hint="slot")
        cos, sin = (b.load(table, position, self.low, mask=self.inside) for table in angles)
        both = self._rotated(*self.sums(), cos, sin)
        self._write(q, slot, pools, both)
        facts = ("T >= 0", "N >= 0", f"0 <= positions[*] < {s.max_position}",
                 f"-1 <= slots[*] < N * {h.page}")  # fmt: skip
        return b.finish(*self.grid(), requires=facts, of="graph.qkv_rope_matmul")

    def place(self, half: int) -> Value:
        """Return the rows of w of the first or the second channel of each pair."""
        text = f"a // {self.half} * {2 * self.half} + a % {self.half} + {half * self.half}"
        return self.b.map(text, self.column, dtype="i32", hint="place")

    def _rotated(self, x: Value, y: Value, cos: Value, sin: Value) -> tuple[Value, Value]:
        """Return both channels, rotated where they are of q and k."""
        b, turned = self.b, self.shape.shape.heads + self.shape.shape.kv_heads
        first = b.map(f"where(e < {turned}, a * c - b * d, a)", x, y, cos, sin, self.head,
                      dtype="f32", hint="first")  # fmt: skip
        return first, b.map(f"where(e < {turned}, b * c + a * d, b)", x, y, cos, sin, self.head,
                            dtype="f32", hint="second")  # fmt: skip

    def _write(self, q: Value, slot: Value, pools: list[Value], both: tuple[Value, Value]) -> None:
        b, h = self.b, self.shape.shape
        page = b.map(f"max(a, 0) // {h.page}", slot, hint="page")
        offset = b.map(f"max(a, 0) % {h.page}", slot, hint="offset")
        written = b.map("where(b >= 0, a, -1)", self.head, slot, dtype="i32", hint="written")
        for number, value in enumerate(both):
            channel = b.map(f"a + {number * self.half}", self.low, dtype="i32", hint="channel")
            column = b.map(f"a * {h.head_dim} + b", self.head, channel, dtype="i32")
            b.store(q, self.row, column, value, mask=self._of(self.head, 0, h.heads))
            if self.shape.kv == "f8e4m3":  # a number that is too large would be none
                value = b.map(f"min(max(a, {-E4M3_MOST}), {E4M3_MOST})", value, dtype="f32")
            first = h.heads
            for pool in pools:
                mine = self._of(written, first, h.kv_heads)
                head = b.map(f"a - {first}", self.head, dtype="i32", hint="kv_head")
                b.store(pool, page, head, offset, channel, value, mask=mine)
                first += h.kv_heads

    def _of(self, head: Value, first: int, count: int) -> Value:
        """Return which pairs are of some heads."""
        text = f"(a >= {first}) & (a < {first + count})"
        return self.b.map(text, head, dtype="bool", hint="of")
