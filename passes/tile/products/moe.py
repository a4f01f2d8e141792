"""Kernels of mixture of experts: route, dispatch, the experts' matmul, combine.

A pair is a (token, choice): number `t * A + a` for the a-th expert of token t; M = T * A pairs.
Rows of the experts' matmul are numbered by pair, so that combine needs no inverse order.
"""

from __future__ import annotations

from typing import NamedTuple

from ....ir.core import Operation, Value
from ....ir.types import SCALED
from ..builder import KernelBuilder
from ..rows.elementwise import blocks_of, of_format, row_and_columns

_LOG2E = 1.4426950408889634
GATED = f"a / (1.0 + exp2({-_LOG2E!r} * a)) * b"
"""silu(a) * b."""


def route(
    experts: int, top_k: int, renormalize: bool, local: tuple[int, int] | None = None,
    slices: int = 1,
) -> Operation:  # fmt: skip
    """Return the top A experts of each row by softmax; of equal logits the lower index wins.

    Arguments: T, logits [T, E], weights [T, A], chosen [T, A]. With `local` = (low, high) those
    experts are numbered from 0; the others get the number high - low and the weight 0. With
    `slices` S > 1 an expert is S of them: weights and chosen are [T, A * S].
    """
    part = "_{}_{}".format(*local) if local else f"_by_{slices}" if slices > 1 else ""
    b = KernelBuilder(f"moe_route_{experts}_{top_k}" + part)
    b.scalar("T")
    logits = b.buffer("logits", "f32", "T", experts)
    width = top_k * slices
    weights, chosen = b.buffer("weights", "f32", "T", width), b.buffer("chosen", "i32", "T", width)
    row, expert = b.program_id(0, "row"), b.iota(experts)
    left = b.load(logits, row, expert)
    top = b.reduce("max", left, 0, hint="top")
    mass = b.map(f"exp2((a - b) * {_LOG2E!r})", left, top, hint="mass")
    picked, shares = [], []
    for _ in range(top_k):
        best = b.argmax(left, 0)
        here = b.map("a == b", expert, best, hint="here")
        picked.append(best)
        shares.append(b.reduce("sum", b.map("where(a, b, 0.0)", here, mass), 0, hint="share"))
        left = b.map("where(a, -3.0e38, b)", here, left, hint="left")
    total = _sum(b, shares) if renormalize else b.reduce("sum", mass, 0, hint="total")
    for choice, (best, share) in enumerate(zip(picked, shares, strict=True)):
        weight = b.map("a / b", share, total, hint="weight")
        if local is not None:
            low, high = local
            inside = f"(a >= {low}) & (a < {high})"
            weight = b.map(f"where({inside}, b, 0.0)", best, weight, hint="weight")
            best = b.map(f"where({inside}, a - {low}, {high - low})", best, dtype="i32", hint="own")
        for slice in range(slices):
            place = b.full(choice * slices + slice, "i32")
            number = f"a * {slices} + {slice}"
            b.store(chosen, row, place, best if slices == 1 else b.map(number, best, dtype="i32"))
            b.store(weights, row, place, weight)
    return b.finish("T", requires=("T >= 0",), of="graph.moe_route")


def _sum(b: KernelBuilder, values: list[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = b.map("a + b", total, value, hint="total")
    return total


BLOCK = 256
"""Pairs that a program of dispatch looks at at a time, where there are few."""


def dispatch(experts: int, block: int = BLOCK) -> Operation:
    """Return the stable order of pairs by expert, and where each expert's pairs start.

    Arguments: M, chosen [M], order [M], starts [E + 1]. Program e counts the pairs before its
    expert's and places its own: no program waits for another.
    """
    b = KernelBuilder(f"moe_dispatch_{experts}" + ("" if block == BLOCK else f"_{block}"))
    pairs = b.scalar("M")
    chosen, order = b.buffer("chosen", "i32", "M"), b.buffer("order", "i32", "M")
    starts = b.buffer("starts", "i32", experts + 1)
    expert, zero = b.program_id(0, "expert"), b.full(0, "i32")
    lane = b.iota(block)

    def pairs_of(base: Value) -> tuple[Value, Value]:
        pair = b.map("a + b", base, lane, dtype="i32", hint="pair")
        inside = b.map("a < b", pair, pairs, hint="inside")
        return pair, b.load(chosen, pair, mask=inside, other=experts)

    with b.loop(zero, pairs, b.full(0, "i32"), step=block, hint="base") as loop:
        _, mine = pairs_of(loop.index)
        fewer = b.map("where(a < b, 1, 0)", mine, expert, dtype="i32")
        loop.yields(b.map("a + b", loop.carried[0], b.reduce("sum", fewer, 0)))
    start = loop.results[0]
    with b.loop(zero, pairs, start, step=block, hint="base") as loop:
        pair, mine = pairs_of(loop.index)
        here = b.map("where(a == b, 1, 0)", mine, expert, dtype="i32", hint="here")
        place = b.map("a + b - 1", loop.carried[0], b.scan(here, 0), hint="place")
        fits = b.map("(a == 1) & (b >= 0) & (b < c)", here, place, pairs, hint="fits")
        b.store(order, place, pair, mask=fits)
        loop.yields(b.map("a + b", loop.carried[0], b.reduce("sum", here, 0)))
    b.store(starts, expert, start)
    after = b.map("a + 1", expert)
    b.store(starts, after, loop.results[0], mask=b.map(f"a == {experts}", after))
    return b.finish(str(experts), requires=("M >= 0",), of="graph.moe_dispatch")


def expert_matmul(
    experts: int, n: int, k: int, per_row: int = 1, dtype: str = "f32", rows: int = 4,
    block_n: int = 64, block_k: int = 64, compute: str = "f32", activations: str = "f32",
    paged: bool = False, chunks: int = 1, silu: bool = False,
) -> Operation:  # fmt: skip
    """Return `out[p] = x[p // per_row] @ w[expert of p].T` for every pair p.

    Arguments: X, M, x [X, K], w [E, N, K], order [M], starts [E + 1], out [M, N], and for 8 bits
    last: scale [E, N]. `per_row` pairs share a row of x: A where x are tokens, 1 where pairs.
    Program (e, j) walks the rows of expert e, `rows` at a time, so that an expert nobody chose
    costs no memory traffic. With `chunks`, for many rows an expert, program (c, j, e) walks every
    chunks-th block from block c on: those of one expert stand side by side, so that its rows and
    its weight are read from memory once, and by the others from the cache. Products are formed in
    `compute` (f32, or bf16 for tensor cores); x and out are `activations`. When `paged`, w
    [S, N, K] (and scale [S, N]) are pages in any order, S follows M, and `places` [E] follows
    starts: the page of each expert, or -1 where it is not there; then its rows of out stay as they
    are. With `silu`, w [E, 2N, K] (and scale [E, 2N]) hold gate and up, and out is silu(gate) * up.
    """
    name = f"moe_expert_{dtype}_{n}x{k}_{per_row}" + "_silu" * silu + "_paged" * paged
    tiles = f"_{rows}x{block_n}" if chunks > 1 else ""
    b = KernelBuilder(name + of_format(activations) + tiles)
    given = _expert_buffers(b, experts, n, k, dtype, activations, paged, silu)
    chunk = b.program_id(0, "chunk") if chunks > 1 else None
    expert, column, inside = _expert_columns(b, n, block_n, (0, 1) if chunk is None else (2, 1))
    low, high = b.load(given.starts, expert), b.load(given.starts, b.map("a + 1", expert))
    if given.places is not None:
        expert = b.load(given.places, expert, hint="page")
        high = b.map("where(a < 0, b, c)", expert, low, high, hint="high")
    if chunk is not None:
        low = b.map(f"a + b * {rows}", low, chunk, dtype="i32", hint="first")
    with b.loop(low, high, step=rows * chunks, hint="base") as loop:
        place = b.map("a + b", loop.index, b.iota(rows), dtype="i32", hint="place")
        live = b.map("a < b", place, high, hint="live")
        pair = b.load(given.order, place, mask=live, hint="pair")
        row = b.expand(b.map(f"a // {per_row}", pair, hint="row"), 1)
        halves = [column, b.map(f"a + {n}", column, dtype="i32", hint="upper")][: 1 + silu]
        sums = _row_products(b, (given.x, row, b.expand(live, 1)),
                             (given.w, expert, halves, inside), k, (rows, block_n, block_k),
                             compute)  # fmt: skip
        if given.scale is not None:
            factors = [b.expand(b.load(given.scale, expert, half, mask=inside), 0)
                       for half in halves]  # fmt: skip
            sums = [b.map("a * b", *both, hint="scaled")
                    for both in zip(sums, factors, strict=True)]  # fmt: skip
        acc = b.map(GATED, *sums, dtype="f32", hint="gated") if silu else sums[0]
        mask = _both(b, b.expand(live, 1), None if inside is None else b.expand(inside, 0))
        b.store(given.out, b.expand(pair, 1), b.expand(column, 0), acc, mask=mask)
        loop.yields()
    facts = (
        "X >= 0", f"M == X * {per_row}", "0 <= order[*] < M", "0 <= starts[*] <= M",
        *(["-1 <= places[*] < S"] if paged else []),
    )  # fmt: skip
    grid = (str(experts), blocks_of(n, block_n))
    grid = grid if chunks == 1 else (str(chunks), *grid[::-1])
    return b.finish(*grid, requires=facts, of="graph.moe_expert")


class _ExpertBuffers(NamedTuple):
    """The buffers of `expert_matmul`."""

    x: Value
    w: Value
    order: Value
    starts: Value
    places: Value | None
    out: Value
    scale: Value | None


def _expert_buffers(
    b: KernelBuilder, experts: int, n: int, k: int, dtype: str, activations: str, paged: bool,
    silu: bool,
) -> _ExpertBuffers:  # fmt: skip
    """Declare the arguments of `expert_matmul`, in their order."""
    for extent in ("X", "M", *("S" * paged)):
        b.scalar(extent)
    pages, wide = "S" if paged else experts, 2 * n if silu else n
    return _ExpertBuffers(
        b.buffer("x", activations, "X", k), b.buffer("w", dtype, pages, wide, k),
        b.buffer("order", "i32", "M"), b.buffer("starts", "i32", experts + 1),
        b.buffer("places", "i32", experts) if paged else None,
        b.buffer("out", activations, "M", n),
        b.buffer("scale", "f32", pages, wide) if dtype in SCALED else None,
    )  # fmt: skip


def _expert_columns(
    b: KernelBuilder, n: int, block: int, axes: tuple[int, int]
) -> tuple[Value, Value, Value | None]:  # fmt: skip
    expert, part = b.program_id(axes[0], "expert"), b.program_id(axes[1], "part")
    column = b.map(f"a * {block} + b", part, b.iota(block), dtype="i32", hint="column")
    return expert, column, b.map(f"a < {n}", column, hint="inside") if n % block else None


def _row_products(
    b: KernelBuilder, left: tuple[Value, Value, Value],
    right: tuple[Value, Value, list[Value], Value | None], k: int, blocks: tuple[int, int, int],
    compute: str,
) -> list[Value]:  # fmt: skip
    """Return rows of x times rows of one expert's weight, summed over K: of each list of rows."""
    x, row, live = left
    w, expert, columns, inside = right
    rows, block_n, block_k = blocks
    zero, end = b.full(0, "i32"), b.full(k, "i32")
    sums = [b.full(0.0, "f32", rows, block_n) for _ in columns]
    with b.loop(zero, end, *sums, step=block_k, hint="k") as loop:
        depth = b.map("a + b", loop.index, b.iota(block_k), dtype="i32", hint="depth")
        whole = None if k % block_k == 0 else b.expand(b.map(f"a < {k}", depth), 0)
        depth = b.expand(depth, 0)
        a = b.load(x, row, depth, mask=_both(b, live, whole), hint="x_rows")
        mask = _both(b, None if inside is None else b.expand(inside, 1), whole)
        parts = [b.load(w, expert, b.expand(column, 1), depth, mask=mask, hint="w_rows")
                 for column in columns]  # fmt: skip
        a = _cast(b, a, compute)
        loop.yields(*(b.dot(a, _cast(b, part, compute), acc, transpose_b=True)
                      for part, acc in zip(parts, loop.carried, strict=True)))  # fmt: skip
    return loop.results


def _cast(b: KernelBuilder, value: Value, dtype: str) -> Value:
    same = value.type.parameters[0].name == dtype  # type: ignore[union-attr]
    return value if same else b.map("a", value, dtype=dtype, hint=value.name)


def _both(b: KernelBuilder, left: Value | None, right: Value | None) -> Value | None:
    if left is None or right is None:
        return left if right is None else right
    return b.map("a & b", left, right, hint="mask")


def combine(
    width: int, top_k: int, residual: bool = False, block: int = 1024, dtype: str = "f32",
    partial: bool = False,
) -> Operation:  # fmt: skip
    """Return `out[t] = sum over a of weights[t, a] * rows[t * A + a]` (+ residual[t]).

    Arguments: T, M, rows [M, D], weights [T, A], out [T, D], and when asked residual [T, D];
    `out` may be the memory of `residual`. With `partial`, rows of weight 0 are not read.
    """
    name = f"moe_combine_{width}_{top_k}" + of_format(dtype)
    b = KernelBuilder(name + ("_partial" if partial else ""))
    b.scalar("T")
    b.scalar("M")
    rows, weights = b.buffer("rows", dtype, "M", width), b.buffer("weights", "f32", "T", top_k)
    out = b.buffer("out", dtype, "T", width)
    before = b.buffer("residual", dtype, "T", width) if residual else None
    row, column, mask = row_and_columns(b, width, block)
    terms = [] if before is None else [b.load(before, row, column, mask=mask)]
    for choice in range(top_k):
        pair = b.map(f"a * {top_k} + {choice}", row, hint="pair")
        weight = b.load(weights, row, b.full(choice, "i32"))
        seen = _both(b, mask, b.map("a != 0.0", weight, hint="here") if partial else None)
        terms.append(b.map("a * b", weight, b.load(rows, pair, column, mask=seen)))
    b.store(out, row, column, _sum(b, terms), mask=mask)
    facts = ("T >= 0", f"M == T * {top_k}")
    return b.finish("T", blocks_of(width, block), requires=facts, of="graph.moe_combine")
