"""Kernels of a token's experts on a GPU, as streams of weights: no order of pairs, no tiles.

Each program looks up the experts that were chosen and reads a few whole rows of theirs, as
`matvec` does with one matrix. More rows read weights again, so that these are for a few.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from ....ir.core import Operation, Value
from ....ir.types import SCALED
from ..builder import KernelBuilder
from ..rows.elementwise import of_format
from .matvec import block_of
from .moe import GATED


@dataclass(frozen=True)
class ExpertMatvec:
    """What a kernel computes: experts E with weights of n results and depth k, `top_k` a token;
    formats of weights and activations; `block_n` results a program. With `partial`, pairs whose
    expert is number E are elsewhere, and their weights 0."""

    experts: int
    n: int
    k: int
    top_k: int
    weight: str = "bf16"
    activations: str = "bf16"
    residual: bool = False
    block_n: int = 2
    partial: bool = False

    @property
    def last(self) -> int:
        """The largest number of an expert that a pair may have."""
        return self.experts if self.partial else self.experts - 1

    @property
    def block_k(self) -> int:
        """Elements of a row read at a time."""
        return block_of(self.k)

    def name(self, kind: str) -> str:
        """A name that tells the shape."""
        tail = of_format(self.activations) + "_residual" * self.residual
        tail += "_partial" * self.partial
        return f"moe_{kind}_{self.weight}_{self.n}x{self.k}_{self.experts}_{self.top_k}{tail}"


def experts_gated(shape: ExpertMatvec) -> Operation:
    """Return `out[p] = silu(gate) * up` of x[p // A] through the gate and up rows of p's expert.

    Arguments: T, M, x [T, K], w [E, 2N, K], chosen [M], out [M, N], and for 8 bits last: scale
    [E, 2N]. Program (j, p) computes `block_n` results of pair p; M = T * A. Rows of pairs that are
    elsewhere are not written.
    """
    s, b = shape, KernelBuilder(shape.name("gated"))
    stream = _Stream(b, s, "T", 2 * s.n)
    part, pair = b.program_id(0, "part"), b.program_id(1, "pair")
    column, inside = stream.columns(part)
    row = b.map(f"a // {s.top_k}", pair, dtype="i32", hint="row")
    expert = b.load(stream.chosen, pair, hint="expert")
    halves = [column, b.map(f"a + {s.n}", column, dtype="i32", hint="upper")]
    here = stream.here(expert)
    sums = stream.sums(halves, inside, [(expert, row, None, here)] * 2, together=False)
    inside = stream.both(inside, here)
    if stream.scale is not None:
        factors = [b.load(stream.scale, expert, half, mask=inside) for half in halves]
        sums = [b.map("a * b", *pair, hint="sum") for pair in zip(sums, factors, strict=True)]
    value = b.map(GATED, *sums, dtype="f32", hint="gated")
    b.store(stream.out, pair, column, value, mask=inside)
    facts = ("T >= 0", f"M == T * {s.top_k}", f"0 <= chosen[*] <= {s.last}")
    return b.finish(-(-s.n // s.block_n), "M", requires=facts, of="graph.moe_gated")


def experts_mixed(shape: ExpertMatvec) -> Operation:
    """Return `out[t] = sum over a of weights[t, a] * (w[expert of (t, a)] rows[t * A + a])` (+
    residual[t]).

    Arguments: T, M, rows [M, K], w [E, N, K], chosen [M], weights [M], out [T, N], and where asked
    residual [T, N], and for 8 bits last: scale [E, N]. Program (j, t) computes `block_n` results of
    token t: rows of all its experts are asked for before the first is used. `out` may be the memory
    of `residual`.
    """
    s, b = shape, KernelBuilder(shape.name("mixed"))
    stream = _Stream(b, s, "M", s.n, mixed=True)
    part, token = b.program_id(0, "part"), b.program_id(1, "token")
    column, inside = stream.columns(part)
    pairs = [b.map(f"a * {s.top_k} + {a}", token, dtype="i32", hint="pair") for a in range(s.top_k)]
    terms = []
    for pair in pairs:
        expert, weight = b.load(stream.chosen, pair, hint="expert"), b.load(stream.weights, pair)
        here = stream.here(expert)
        if stream.scale is not None:
            factor = b.load(stream.scale, expert, column, mask=stream.both(inside, here))
            weight = b.expand(b.map("a * b", weight, factor, dtype="f32", hint="weight"), 1)
        terms.append((expert, pair, weight, here))
    (total,) = stream.sums([column] * s.top_k, inside, terms, together=True)
    if stream.residual is not None:
        before = b.load(stream.residual, token, column, mask=inside)
        total = b.map("a + b", total, before, dtype="f32", hint="total")
    b.store(stream.out, token, column, total, mask=inside)
    facts = ("T >= 0", f"M == T * {s.top_k}", f"0 <= chosen[*] <= {s.last}")
    return b.finish(-(-s.n // s.block_n), "T", requires=facts, of="graph.moe_mixed")


Term = tuple[Value, Value, Value | None, Value | None]
"""A pair: its expert, its row of x, its weight, and whether its expert is here, where in doubt."""


class _Stream:
    """The buffers of a kernel, and products of rows of experts with rows of activations."""

    def __init__(
        self, b: KernelBuilder, s: ExpertMatvec, rows: str, wide: int, mixed: bool = False
    ) -> None:  # fmt: skip
        self.b, self.s = b, s
        b.scalar("T")
        b.scalar("M")
        self.x = b.buffer("x", s.activations, rows, s.k)
        self.w = b.buffer("w", s.weight, s.experts, wide, s.k)
        self.chosen = b.buffer("chosen", "i32", "M")
        if mixed:
            self.weights = b.buffer("weights", "f32", "M")
        self.out = b.buffer("out", s.activations, "T" if mixed else "M", s.n)
        self.residual = b.buffer("residual", s.activations, "T", s.n) if s.residual else None
        self.scale = b.buffer("scale", "f32", s.experts, wide) if s.weight in SCALED else None

    def columns(self, part: Value) -> tuple[Value, Value | None]:
        """Return the results of a program, and which there are where not all are."""
        b, s = self.b, self.s
        column = b.map(f"a * {s.block_n} + b", part, b.iota(s.block_n), dtype="i32", hint="column")
        return column, b.map(f"a < {s.n}", column, hint="inside") if s.n % s.block_n else None

    def here(self, expert: Value) -> Value | None:
        """Return whether a pair's expert is one of these, where it may be none."""
        return self.b.map(f"a < {self.s.experts}", expert, hint="here") if self.s.partial else None

    def both(self, *masks: Value | None) -> Value | None:
        """Return what all masks that there are let through; None: everything."""
        found = [mask for mask in masks if mask is not None]
        return reduce(lambda one, more: self.b.map("a & b", one, more), found) if found else None

    def sums(
        self, columns: list[Value], inside: Value | None, terms: list[Term], together: bool
    ) -> list[Value]:
        """Return the sums over K of rows `columns` of an expert times a row of x times a weight,
        for each of `terms`, or of all of them `together`."""
        b, s = self.b, self.s
        count = 1 if together else len(terms)
        zeros = [b.full(0.0, "f32", s.block_n, s.block_k) for _ in range(count)]
        zero, end = b.full(0, "i32"), b.full(s.k, "i32")
        with b.loop(zero, end, *zeros, step=s.block_k, hint="k") as loop:
            depth = b.map("a + b", loop.index, b.iota(s.block_k), dtype="i32", hint="depth")
            short = b.map(f"a < {s.k}", depth) if s.k % s.block_k else None
            mask = self.both(
                b.expand(inside, 1) if inside is not None else None,
                b.expand(short, 0) if short is not None else None,
            )
            deep = b.expand(depth, 0)
            loads = [
                b.load(self.w, expert, b.expand(column, 1), deep, mask=self.both(mask, here),
                       hint="w_block")
                for column, (expert, _, _, here) in zip(columns, terms, strict=True)
            ]  # fmt: skip
            sums = list(loop.carried)
            for number, (held, (_, row, weight, here)) in enumerate(zip(loads, terms, strict=True)):
                x = b.load(self.x, row, depth, mask=self.both(short, here), dtype="f32",
                           hint="x_block")  # fmt: skip
                x = b.expand(x, 0)
                place = 0 if together else number
                sums[place] = self._added(sums[place], held, x, weight)
            loop.yields(*sums)
        return [b.reduce("sum", acc, 1, hint="total") for acc in loop.results]

    def _added(self, acc: Value, held: Value, x: Value, weight: Value | None) -> Value:
        if weight is None:
            return self.b.map("a + b * c", acc, held, x, dtype="f32", hint="acc")
        return self.b.map("a + b * c * d", acc, held, x, weight, dtype="f32", hint="acc")
