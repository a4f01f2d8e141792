"""The kernel that selects keys by their scores, without sorting: radix histograms, then one pass
that writes the chosen ones in order of position.

How many keys are wanted comes first (`ir.sparse.policy` says what each policy means). The wanted-th
largest score is then found digit by digit: floats are read as integers of the same order, a
histogram of the top digit tells in which bin it lies, a histogram of the next digit inside of that
bin where in it, and so on; after the last digit the score is exact. Ties go to the lower position.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from ....ir.core import Operation, Value
from ..builder import KernelBuilder
from .score_place import Place

ORDERED = "bits_i32(a) ^ ((bits_i32(a) >> 31) & 2147483647)"
"""A float as an integer that orders as floats do."""
_NONE = 2147483647
_OCTAVES, _STEPS = 32, 16
"""Top-p tells weights apart down to 2^-32 of the largest, in steps of 2^(1/16)."""


@dataclass(frozen=True)
class Selection:
    """The static shape: units of tokens, or of pages of `page`; one of the policies' amounts
    beside the budget, `threshold` or `top_p`, or neither; `keys` units are looked at at a time;
    `digits` are the bits of the radix, 32 together. `flat` as in `labels.Scores`.
    """

    kv_heads: int
    page: int
    sinks: int = 4
    recent: int = 16
    unit: str = "token"
    threshold: float = 0.0
    top_p: float = 0.0
    keys: int = 64
    digits: tuple[int, ...] = (8, 8, 8, 8)
    flat: bool = False

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        text = f"select_{self.kv_heads}_{self.page}_{self.sinks}_{self.recent}_{self.unit}"
        text += "_flat" * self.flat + amount_name(self.threshold, self.top_p)
        return f"{text}_{self.keys}_{len(self.digits)}"


def amount_name(threshold: float, top_p: float) -> str:
    """Return the part of a kernel's name that tells a policy's amount, if it has one."""
    amount = f"_at{threshold}" if threshold else f"_p{top_p}" if top_p else ""
    return amount.replace(".", "_").replace("-", "m")


def select_keys(shape: Selection) -> Operation:
    """Return the kernel; a program selects for one key head of one sequence.

    Arguments: B, L, scores [B, K, L], kv_lengths, budgets [B] (the most tokens that may be read;
    more than there are: all of them, unselected), chosen [B, K, L] i32 (tokens or pages,
    ascending), counts [B, K] i32. Flat: B, C, base [B], scores [K, C], kv_lengths, budgets,
    chosen [K, C], counts.
    """
    return _Select(shape).kernel()


class _Select:
    def __init__(self, shape: Selection) -> None:
        self.shape = shape
        b = self.b = KernelBuilder(shape.name)
        b.scalar("B")
        b.scalar("C" if shape.flat else "L")
        self.place = Place(b, shape.flat, shape.page, pages=False)
        self.scores = self.place.buffer("scores", "f32", shape.kv_heads)
        self.lengths, self.budgets = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "budgets"))
        self.chosen = self.place.buffer("chosen", "i32", shape.kv_heads)
        self.counts = b.buffer("counts", "i32", "B", shape.kv_heads)

    def kernel(self) -> Operation:
        b = self.b
        self.head, self.sequence = b.program_id(0, "kv_head"), b.program_id(1, "sequence")
        self.place.enter(self.head, self.sequence)
        self.lane = b.iota(self.shape.keys)
        self._bounds()
        want = self._wanted()
        # where none is wanted no pass is made, and no score is above the limit
        self.end = b.map("where(a > 0, b, c)", want, self.last, self.first, dtype="i32", hint="end")
        limit, ties = self._limit(want)
        none = b.map("a > 0", want, hint="some")
        limit = b.map(f"where(a, b, {_NONE})", none, limit, dtype="i32", hint="limit")
        count = self._write(limit, ties)
        b.store(self.counts, self.sequence, self.head, count)
        facts = ("B >= 0", *self.place.facts)
        return b.finish(self.shape.kv_heads, "B", requires=facts, of="graph.select")

    def _bounds(self) -> None:
        """Set the units of the sequence, and [first, last) of the middle; none if all is read."""
        b, s = self.b, self.shape
        unit = s.page if s.unit == "page" else 1
        self.length = b.load(self.lengths, self.sequence, hint="length")
        self.budget = b.load(self.budgets, self.sequence, hint="budget")
        self.units = b.map(f"(a + {unit - 1}) // {unit}", self.length, dtype="i32", hint="units")
        self.first = b.full(-(-s.sinks // unit), "i32")
        text = f"where(a >= b, max(max(a - {s.recent}, 0) // {unit}, c), 0)"
        last = b.map(text, self.length, self.budget, self.first, dtype="i32", hint="last")
        self.last = b.map("min(a, b)", last, self.units, dtype="i32", hint="last")

    def _wanted(self) -> Value:
        """Return how many units of the middle to take."""
        b, s = self.b, self.shape
        unit = s.page if s.unit == "page" else 1
        forced = b.map(f"a - (b - c) * {unit}", self.length, self.last, self.first, dtype="i32",
                       hint="forced")  # fmt: skip
        text = f"max(min((a - b + {unit - 1}) // {unit}, c - d), 0)"
        room = b.map(text, self.budget, forced, self.last, self.first, dtype="i32", hint="room")
        if not (s.threshold or s.top_p):
            return room
        top = self._top()
        found = self._above(top) if s.threshold else self._mass(top)
        return b.map("min(a, b)", room, found, dtype="i32", hint="want")

    # Passes over the scores of the middle

    def _block(self, base: Value, end: Value) -> tuple[Value, Value]:
        """Return the scores of a block of units, and which lanes are inside."""
        b = self.b
        unit = b.map("a + b", base, self.lane, dtype="i32", hint="unit")
        inside = b.map("a < b", unit, end, hint="inside")
        score = b.load(self.scores, *self.place.at(unit), mask=inside, hint="score")
        return score, inside

    def _top(self) -> Value:
        """Return the largest score."""
        b, keys = self.b, self.shape.keys
        lowest = b.full(-3.0e38, "f32", keys)
        with b.loop(self.first, self.last, lowest, step=keys, hint="base") as loop:
            score, inside = self._block(loop.index, self.last)
            loop.yields(b.map("where(b, max(a, c), a)", loop.carried[0], inside, score))
        return b.reduce("max", loop.results[0], 0, hint="top")

    def _above(self, top: Value) -> Value:
        """Return how many weights are at least the threshold times the largest."""
        b, keys = self.b, self.shape.keys
        least = b.map(f"a + {log2(self.shape.threshold)!r}", top, hint="least")
        with b.loop(self.first, self.last, b.full(0, "i32", keys), step=keys, hint="base") as loop:
            score, inside = self._block(loop.index, self.last)
            text = "a + where(b & (c >= d), 1, 0)"
            loop.yields(b.map(text, loop.carried[0], inside, score, least, dtype="i32"))
        return b.reduce("sum", loop.results[0], 0, hint="found")

    def _mass(self, top: Value) -> Value:
        """Return how many of the largest weights surely reach top_p of their sum.

        Bins hold weights within a step of each other. Whole bins are left out from the lowest up,
        as long as what they weigh, each key taken at its bin's upper end, is at most 1 - top_p.
        """
        b, keys, bins = self.b, self.shape.keys, _OCTAVES * _STEPS
        start = (b.full(0, "i32", bins), b.full(0.0, "f32", keys))
        with b.loop(self.first, self.last, *start, step=keys, hint="base") as loop:
            counts, total = loop.carried
            score, inside = self._block(loop.index, self.last)
            below = b.map("min(b - a, 1e4)", score, top, dtype="f32", hint="below")
            text = f"where(b, min(i32(a * {float(_STEPS)}), {bins - 1}), -1)"
            place = b.map(text, below, inside, dtype="i32", hint="bin")
            weight = b.map("a + where(c, exp2(0.0 - b), 0.0)", total, below, inside, dtype="f32")
            loop.yields(b.histogram(place, counts), weight)
        counts, total = loop.results
        total = b.reduce("sum", total, 0, hint="total")
        bin = b.iota(bins)
        weight = b.map(f"f32(a) * exp2(f32(b) * {-1.0 / _STEPS!r})", counts, bin, hint="weight")
        running = b.scan(weight, 0)
        after = b.map("a - b", b.reduce("sum", weight, 0), running, hint="after")
        text = f"where(a > b * {1.0 - self.shape.top_p!r}, 1, 0)"
        needed = b.reduce("sum", b.map(text, after, total, dtype="i32"), 0, hint="needed")
        kept = b.map("where(b <= c, a, 0)", counts, bin, needed, dtype="i32", hint="kept")
        return b.reduce("sum", kept, 0, hint="found")

    def _limit(self, want: Value) -> tuple[Value, Value]:
        """Return the want-th largest score as an ordered integer, and how many equal to it are
        wanted."""
        b, shift = self.b, 32
        limit, left = b.full(0, "i32"), want
        for place, bits in enumerate(self.shape.digits):
            before, shift = shift, shift - bits
            counts = self._counts(limit, bits, shift, before if place else None)
            digit, above = self._boundary(counts, left)
            left = b.map("a - b", left, above, dtype="i32", hint="left")
            half = 1 << (bits - 1)
            text = f"(a << {bits}) + b" if place else f"b - {half} + a"
            limit = b.map(text, limit, digit, dtype="i32", hint="limit")
        return limit, left

    def _counts(self, known: Value, bits: int, shift: int, before: int | None) -> Value:
        """Return the histogram of a digit, over scores whose higher digits are known."""
        b, keys = self.b, self.shape.keys
        start = b.full(0, "i32", 1 << bits)
        with b.loop(self.first, self.end, start, step=keys, hint="base") as loop:
            score, inside = self._block(loop.index, self.end)
            value = b.map(ORDERED, score, dtype="i32", hint="value")
            if before is None:  # the top digit has the sign
                text = f"where(b, (a >> {shift}) + {1 << (bits - 1)}, -1)"
                digit = b.map(text, value, inside, dtype="i32", hint="digit")
            else:
                text = f"where(b & ((a >> {before}) == c), (a >> {shift}) & {(1 << bits) - 1}, -1)"
                digit = b.map(text, value, inside, known, dtype="i32", hint="digit")
            loop.yields(b.histogram(digit, loop.carried[0]))
        return loop.results[0]

    def _boundary(self, counts: Value, want: Value) -> tuple[Value, Value]:
        """Return the bin of the want-th from the top, and how many are in the bins above it."""
        b = self.b
        (bins,) = counts.type.parameters[1]  # type: ignore[misc]
        rest = b.map("a - b + c", b.reduce("sum", counts, 0, hint="all"), b.scan(counts, 0), counts,
                     dtype="i32", hint="rest")  # fmt: skip
        reach = b.map("where(a >= b, 1, 0)", rest, want, dtype="i32", hint="reach")
        bin = b.map("a - 1", b.reduce("sum", reach, 0), dtype="i32", hint="boundary")
        over = b.map("where(a > b, c, 0)", b.iota(bins), bin, counts, dtype="i32", hint="over")  # type: ignore[arg-type]
        return bin, b.reduce("sum", over, 0, hint="above")

    def _write(self, limit: Value, ties: Value) -> Value:
        """Write the chosen units in order; return how many there are."""
        b, zero = self.b, self.b.full(0, "i32")
        with b.loop(zero, self.units, zero, zero, step=self.shape.keys, hint="base") as loop:
            written, equal = loop.carried
            unit = b.map("a + b", loop.index, self.lane, dtype="i32", hint="unit")
            text = "(a < d) & ((a < b) | (a >= c))"
            forced = b.map(text, unit, self.first, self.last, self.units, dtype="bool",
                           hint="forced")  # fmt: skip
            middle = b.map("(a >= b) & (a < c)", unit, self.first, self.end, dtype="bool",
                           hint="middle")  # fmt: skip
            score = b.load(self.scores, *self.place.at(unit), mask=middle, hint="score")
            value = b.map(ORDERED, score, dtype="i32", hint="value")
            tie = b.map("where(a & (b == c), 1, 0)", middle, value, limit, dtype="i32", hint="tie")
            rank = b.map("a + b", equal, b.scan(tie, 0), dtype="i32", hint="rank")
            text = "where(a | (b & (c > d)) | ((e > 0) & (f <= g)), 1, 0)"
            take = b.map(text, forced, middle, value, limit, tie, rank, ties, dtype="i32",
                         hint="take")  # fmt: skip
            place = b.map("a + b - 1", written, b.scan(take, 0), dtype="i32", hint="place")
            text = "(a > 0) & (b >= 0) & (b < c)"
            kept = b.map(text, take, place, self.length, dtype="bool", hint="kept")
            b.store(self.chosen, *self.place.at(place), unit, mask=kept)
            loop.yields(
                b.map("a + b", written, b.reduce("sum", take, 0), dtype="i32"),
                b.map("a + b", equal, b.reduce("sum", tie, 0), dtype="i32"),
            )
        return loop.results[0]
