"""Matmul and attention kernels with random arguments; the reference in float64 is their oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Operation
from weft.passes.tile.attention import paged as attend
from weft.passes.tile.attention.paged import Attention
from weft.passes.tile.products.matmul import Matmul, matmul
from weft.tests.codegen.kernel_cases import Case, bf16, normal, poison

MATMULS = {
    "plain": Matmul(24, 64, block_k=32),
    "ragged": Matmul(21, 50, block_k=32, rows=2),
    "bf16_bias": Matmul(24, 64, "bf16", bias=True, block_k=64),
    "int8_residual": Matmul(24, 64, "i8", residual=True, block_k=32, rows=4),
    "norm_silu": Matmul(24, 64, norm_eps=1e-5, silu=True, block_k=32),
}
SHAPES = {
    "plain": Attention(4, 2, 16, page=4), "bf16": Attention(4, 1, 16, page=4, kv="bf16"),
    "window": Attention(4, 2, 16, page=4, window=5), "one_head": Attention(2, 2, 16, page=16),
    "split": Attention(4, 2, 16, page=4, splits=3),
    "programs": Attention(6, 2, 16, page=4, rows=2, programs=2),
}  # fmt: skip


def _finish(kernel: Operation, arguments: list[Any], outputs: list[str], tolerance: float) -> Case:
    oracle = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    run_kernel(kernel, *oracle, dtype=np.float64)
    case = Case(kernel, arguments, {}, tolerance)
    case.expected = {name: oracle[case.position(name)] for name in outputs}
    return case


def matmul_case(rng: np.random.Generator, t: int, shape: Matmul) -> Case:
    wide = shape.n * (2 if shape.silu else 1)
    w = normal(rng, wide, shape.k)
    scale = []
    if shape.weight == "bf16":
        w = bf16(w)
    elif shape.weight == "i8":
        w = rng.integers(-127, 128, (wide, shape.k)).astype("i1")
        scale = [np.abs(normal(rng, wide)) / 64]
    parts = [*scale, *([normal(rng, wide)] if shape.bias else [])]
    parts += [normal(rng, shape.k)] if shape.norm_eps is not None else []
    parts += [normal(rng, t, shape.n)] if shape.residual else []
    arguments = [t, normal(rng, t, shape.k), w, poison(t, shape.n), *parts]
    return _finish(matmul(shape), arguments, ["out"], 1e-3)


def _cache(rng: np.random.Generator, lengths: np.ndarray, shape: Attention) -> list[Any]:
    """Return N, MAXP and page_table, pools k and v for sequences of some lengths."""
    needed = -(-lengths // shape.page)
    most, pages = int(needed.max(initial=0)) + 1, int(needed.sum()) + 2
    table = np.zeros((len(lengths), most), "i4")
    free = iter(rng.permutation(pages))
    for row, count in zip(table, needed, strict=True):
        row[:count] = [next(free) for _ in range(count)]
    pools = [normal(rng, pages, shape.kv_heads, shape.page, shape.head_dim) for _ in range(2)]
    pools = [bf16(pool) if shape.kv == "bf16" else pool for pool in pools]
    return [pages, most, table, *pools]


def decode_case(rng: np.random.Generator, t: int, shape: Attention) -> Case:
    lengths = rng.integers(0, 14, t).astype("i4")
    pages, most, table, k, v = _cache(rng, lengths, shape)
    q = normal(rng, t, shape.heads * shape.head_dim)
    states = (t, shape.splits, shape.heads)
    outputs = {"out": poison(t, shape.heads * shape.head_dim)} if shape.splits == 1 else {
        "m": poison(*states), "l": poison(*states), "acc": poison(*states, shape.head_dim)
    }  # fmt: skip
    arguments = [t, pages, most, q, table, lengths, k, v, *outputs.values()]
    return _finish(attend.decode(shape), arguments, list(outputs), 1e-3)


def step_case(rng: np.random.Generator, t: int, shape: Attention) -> Case:
    sequences = max(1, t // 3) if t else 0
    cuts = np.sort(rng.integers(0, t + 1, max(sequences - 1, 0)))
    starts = np.concatenate([[0], cuts, [t]])[: sequences + 1].astype("i4")
    lengths = (np.diff(starts) + rng.integers(0, 6, sequences)).astype("i4")
    pages, most, table, k, v = _cache(rng, lengths, shape)
    width = shape.heads * shape.head_dim
    arguments = [t, sequences, sequences + 1, pages, most, normal(rng, t, width), table, starts,
                 lengths, k, v, poison(t, width)]  # fmt: skip
    return _finish(attend.attention(shape), arguments, ["out"], 1e-3)


def merge_case(rng: np.random.Generator, t: int) -> Case:
    arguments = [t, normal(rng, t, 3, 4), np.abs(normal(rng, t, 3, 4)), normal(rng, t, 3, 4, 16),
                 poison(t, 64)]  # fmt: skip
    return _finish(attend.merge(4, 16, 3), arguments, ["out"], 1e-3)


def _with(build: Callable[..., Case], shape: Any) -> Callable[[np.random.Generator, int], Case]:
    return lambda rng, size: build(rng, size, shape)


LARGE: dict[str, Callable[[np.random.Generator, int], Case]] = {
    **{f"matmul_{name}": _with(matmul_case, shape) for name, shape in MATMULS.items()},
    **{f"decode_{name}": _with(decode_case, shape) for name, shape in SHAPES.items()},
    **{f"step_{name}": _with(step_case, shape) for name, shape in SHAPES.items()},
    "merge": merge_case,
}


def make_large(family: str, rows: int, seed: int = 0) -> Case:
    """Return a random case of a family."""
    return LARGE[family](np.random.default_rng(seed + 1), rows)
