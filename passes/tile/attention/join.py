"""The join of what parts of attention left in slots: states (m, l, acc) of a row become its result.

FlashAttention's merge of partial softmaxes (arXiv 2205.14135, section 3.1), in base 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ..builder import KernelBuilder

UNSEEN, LOWEST = -1e30, -1e20
"""What a key that a row does not see scores, and where a row's maximum starts: above it, even
when scaled, so that such keys weigh nothing even in a row that sees none."""

AT_ONCE = 16
"""Slots that a round of the join reads where rows are few, and cut into many parts."""

AT_ONCE_OF_FEW, MOST_FEW = 48, 2
"""The same where rows are so few that each is cut into some forty parts, and how many rows those
are: of one row of 128 K tokens, whose list is cut into 43, an H200 takes 32.7 us a layer instead of
33.3; of eight rows in six parts each it would take 129.2 instead of 127.1."""

AT_ONCE_OF_MANY, TOGETHER = 4, (16, 4)
"""The same where rows are many, and cut into few; and heads that a program joins there: of 128 rows
on an H200 2.9 us instead of 10.2 with 16 slots of one head, 5.9 with 4; with 16 heads 0.6 less than
with eight (attention of 128 rows behind shared keys 27.8 and 32.6 us, with eight heads 28.4 and
33.2, with 32 28.6 and 33.4). Of eight heads four, 0.9 less than all (256 rows behind 2 K keys 19.0
and 20.6). The first that divides a model's heads is taken; eight warps share them."""

QUOTIENT = "where(b > 0.0, a / max(b, 1e-30), 0.0)"


def attention_merge(
    heads: int, head_dim: int, out: str = "bf16", at_once: int = AT_ONCE, together: int = 1,
    rows: str = "",
) -> Operation:  # fmt: skip
    """Return the kernel that joins the slots of each row of a list, `at_once` at a time.

    Arguments: T, G rows, G1 = G + 1, S; merge_query [G], merge_start [G1] (row g has the slots
    merge_start[g] up to merge_start[g + 1]; a query of -1 stores nothing), m, l [S, H], acc
    [S, H, C], out [T, H * C]. A program joins so many heads of a row `together`. A kernel for `few`
    rows, or for `many`, has no programs where there are others.
    """
    return _Join(heads, head_dim, out, at_once, together, rows).kernel()


def merge_of_many(heads: int, head_dim: int, out: str) -> Operation:
    """Return the same for steps of many rows, which are cut into few parts."""
    together = next((count for count in TOGETHER if heads % count == 0), 1)
    return attention_merge(heads, head_dim, out, AT_ONCE_OF_MANY, together)


@dataclass(frozen=True)
class States:
    """What parts of attention left in slots, of some heads [h] of one row and all channels [1, C]:
    m, l [S, H] and acc [S, H, C]."""

    b: KernelBuilder
    maximum: Value
    total: Value
    acc: Value
    head: Value
    channel: Value

    def joined(self, low: Value, high: Value, at_once: int) -> tuple[Value, Value]:
        """Return the sum of weights [h] and of weighted values [h, C] over the slots [low, high),
        `at_once` at a time."""
        b, (count,) = self.b, extents_of(self.head.type)
        _, wide = extents_of(self.channel.type)
        state = (b.full(LOWEST, "f32", count), b.full(0.0, "f32", count),
                 b.full(0.0, "f32", count, wide))  # fmt: skip
        with b.loop(low, high, *state, step=at_once, hint="slots") as loop:
            slots = [b.map(f"a + {n}", loop.index, dtype="i32", hint="slot")
                     for n in range(at_once)]  # fmt: skip
            loop.yields(*self._round(slots, high, loop.carried))
        _, total, summed = loop.results
        return total, summed

    def _round(
        self, slots: list[Value], high: Value, state: list[Value]
    ) -> tuple[Value, Value, Value]:  # fmt: skip
        """Return the state after some more slots, those below `high`."""
        b, (top, total, summed) = self.b, state
        live = [b.map("a < b", slot, high, hint="live") for slot in slots]
        pairs = list(zip(slots, live, strict=True))
        maxima = [b.load(self.maximum, slot, self.head, mask=mask, other=UNSEEN, hint="maximum")
                  for slot, mask in pairs]  # fmt: skip
        sums = [b.load(self.total, slot, self.head, mask=mask, hint="part") for slot, mask in pairs]
        rows = [b.load(self.acc, slot, b.expand(self.head, 1), self.channel, mask=mask, hint="row")
                for slot, mask in pairs]  # fmt: skip
        higher = top
        for maximum in maxima:
            higher = b.map("max(a, b)", higher, maximum, hint="higher")
        fade = b.map("exp2(a - b)", top, higher, hint="fade")
        total = b.map("a * b", total, fade, hint="total")
        summed = b.map("a * b", summed, b.expand(fade, 1), hint="summed")
        for maximum, part, row in zip(maxima, sums, rows, strict=True):
            weight = b.map("exp2(a - b)", maximum, higher, hint="weight")
            total = b.map("a + b * c", total, weight, part, hint="total")
            summed = b.map("a + b * c", summed, b.expand(weight, 1), row, hint="summed")
        return higher, total, summed


class _Join:
    def __init__(
        self, heads: int, head_dim: int, out: str, at_once: int, together: int, rows: str
    ) -> None:  # fmt: skip
        self.heads, self.head_dim = heads, head_dim
        self.at_once, self.together, self.rows = at_once, together, rows
        by = f"_{together}by{at_once}" if at_once != AT_ONCE else ""
        by += f"_of_{rows}" * bool(rows)
        b = self.b = KernelBuilder(f"attention_join_{heads}_{head_dim}_{out}{by}")
        for extent in ("T", "G", "G1", "S"):
            b.scalar(extent)
        self.query, self.start = (
            b.buffer("merge_query", "i32", "G"), b.buffer("merge_start", "i32", "G1")
        )  # fmt: skip
        self.m, self.l = b.buffer("m", "f32", "S", heads), b.buffer("l", "f32", "S", heads)
        self.acc = b.buffer("acc", "f32", "S", heads, head_dim)
        self.out = b.buffer("out", out, "T", heads * head_dim)

    def kernel(self) -> Operation:
        b, count = self.b, self.together
        row, heads = b.program_id(0, "row"), b.program_id(1, "heads")
        token = b.load(self.query, row, hint="token")
        low = b.load(self.start, row, hint="low")
        high = b.load(self.start, b.map("a + 1", row), hint="high")
        self.head = b.map(f"a * {count} + b", heads, b.iota(count), dtype="i32", hint="head")
        self.channel = b.expand(b.iota(self.head_dim), 0)
        states = States(b, self.m, self.l, self.acc, self.head, self.channel)
        total, summed = states.joined(low, high, self.at_once)
        column = b.map(f"a * {self.head_dim} + b", b.expand(self.head, 1), self.channel,
                       dtype="i32", hint="column")  # fmt: skip
        named = b.map("a >= 0", token, hint="named")
        b.store(self.out, token, column, b.map(QUOTIENT, summed, b.expand(total, 1)), mask=named)
        facts = ("G >= 0", "G1 == G + 1", "-1 <= merge_query[*] < T", "0 <= merge_start[*] <= S")
        grid = {"few": f"where(G <= {MOST_FEW}, G, 0)", "many": f"where(G <= {MOST_FEW}, 0, G)"}
        return b.finish(
            grid.get(self.rows, "G"), self.heads // count, requires=facts, of="graph.merge",
            given=(self.query, self.start),
        )  # fmt: skip
