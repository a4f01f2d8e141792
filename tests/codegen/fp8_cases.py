"""Kernels over 8-bit floats with random arguments and what they must compute, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from weft.codegen.meaning.arrays import narrow, widen
from weft.ir.core import Operation
from weft.passes.tile.products import moe
from weft.passes.tile.products.matvec import Matvec, matvec, suited
from weft.passes.tile.products.scaled_matmul import ScaledMatmul, scaled_matmul
from weft.passes.tile.rows import elementwise, rope
from weft.tests.codegen.kernel_cases import Case, bf16, from_bf16, normal, poison
from weft.tests.codegen.kernel_oracles import dispatched, normed, rotated_and_written, silu

SIZES = {"empty": 0, "one": 1, "ragged": 21}


def weights(rng: np.random.Generator, dtype: str, *shape: int) -> tuple[np.ndarray, ...]:
    """Return stored numbers, their scales a row, and what they stand for."""
    if dtype == "i8":
        stored = rng.integers(-127, 128, shape).astype("i1")
        wide = stored.astype("f8")
    else:
        stored = narrow(16 * normal(rng, *shape), "f8e4m3")
        wide = widen(stored, "f8e4m3").astype("f8")
    scale = (np.abs(normal(rng, *shape[:-1])) / 64).astype("f4")
    return stored, scale, wide * scale[..., None].astype("f8")


def embedding(rng: np.random.Generator, t: int) -> Case:
    table, scale, wide = weights(rng, "f8e4m3", 11, 96)
    ids = rng.integers(0, 11, t).astype("i4")
    arguments = [t, table, ids, poison(t, 96), scale]
    return Case(elementwise.embedding(11, 96, "f8e4m3"), arguments, {"out": wide[ids]})


def product(rng: np.random.Generator, t: int, shape: ScaledMatmul) -> Case:
    x, (w, scale, wide) = (
        bf16(normal(rng, t, shape.k)),
        weights(rng, shape.weight, shape.n, shape.k),
    )
    factors: list[Any] = []
    if shape.rounded:
        x, *factors, rows = weights(rng, "f8e4m3", t, shape.k)
    else:
        rows = from_bf16(x)
    expected = rows @ wide.T
    arguments = [t, x, w, poison(t, shape.n), scale, *factors]
    if shape.bias:
        arguments.append(normal(rng, shape.n))
        expected = expected + arguments[-1]
    return Case(scaled_matmul(shape), arguments, {"out": expected}, 2e-3)


def stream(rng: np.random.Generator, t: int, shape: Matvec) -> Case:
    wide = shape.n * (2 if shape.silu else 1)
    x, (w, scale, numbers) = (
        bf16(normal(rng, t, shape.k)),
        weights(rng, shape.weight, wide, shape.k),
    )
    expected = from_bf16(x) @ numbers.T
    arguments: list[Any] = [t, x, w, poison(t, shape.n), scale]
    if shape.bias:
        arguments.append(normal(rng, wide))
        expected = expected + arguments[-1]
    if shape.silu:
        expected = silu(expected[:, : shape.n]) * expected[:, shape.n :]
    return Case(matvec(shape), arguments, {"out": expected}, 2e-3)


def rounded(
    rng: np.random.Generator, t: int, kernel: Operation, inputs: list[Any], wide: np.ndarray,
    before: dict[str, np.ndarray] | None = None,
) -> Case:  # fmt: skip
    """A kernel that leaves rows in f8e4m3: within half a step of 3 bits, the largest is 448."""
    outs = [np.full(array.shape, 0x7FC0, "u2") for array in (before or {}).values()]
    arguments = [t, *inputs, *outs, np.full(wide.shape, 0x7F, "u1"), poison(t)]
    scale = np.maximum(np.abs(wide).max(-1, initial=0.0), 1e-12) / 448
    expected = {**(before or {}), "out": wide / scale[:, None], "scale": scale}
    return Case(kernel, arguments, expected, 0.07)


def quantized(rng: np.random.Generator, t: int) -> Case:
    x = bf16(normal(rng, t, 50))
    x[:1] = 0
    return rounded(rng, t, elementwise.quantize_rows(50), [x], from_bf16(x))


def norm_quantized(rng: np.random.Generator, t: int) -> Case:
    x, w = bf16(normal(rng, t, 50)), normal(rng, 50)
    kernel = elementwise.rmsnorm(50, 1e-5, "bf16", narrow=True)
    return rounded(rng, t, kernel, [x, w], normed(from_bf16(x), w, 1e-5))


def add_norm_quantized(rng: np.random.Generator, t: int) -> Case:
    x, y, w = bf16(normal(rng, t, 64)), bf16(normal(rng, t, 64)), normal(rng, 64)
    total = from_bf16(x) + from_bf16(y)
    kernel = elementwise.add_rmsnorm(64, 1e-5, "bf16", narrow=True)
    return rounded(rng, t, kernel, [x, y, w], normed(total, w, 1e-5), {"total": total})


def silu_quantized(rng: np.random.Generator, t: int) -> Case:
    x = bf16(normal(rng, t, 80))
    gate, up = from_bf16(x)[:, :40], from_bf16(x)[:, 40:]
    return rounded(rng, t, elementwise.silu_mul(40, "bf16", narrow=True), [x], silu(gate) * up)


def experts(rng: np.random.Generator, t: int) -> Case:
    e, n, k = 5, 40, 48
    x, (w, scale, wide) = bf16(normal(rng, t, k)), weights(rng, "f8e4m3", e, n, k)
    chosen = rng.integers(0, e, 2 * t).astype("i4")
    order, starts = dispatched(chosen, e)
    rows = from_bf16(x)[np.arange(2 * t) // 2]
    expected = np.einsum("pk,pnk->pn", rows, wide[chosen])
    kernel = moe.expert_matmul(e, n, k, 2, "f8e4m3", 16, 32, 32, "bf16", "bf16")
    out = np.full((2 * t, n), 0x7FC0, "u2")
    return Case(kernel, [t, 2 * t, x, w, order, starts, out, scale], {"out": expected}, 3e-2)


def written(rng: np.random.Generator, t: int) -> Case:
    """Keys beyond the largest number are kept as it."""
    heads, kv_heads, width, page, pages, longest = 4, 2, 16, 4, 8, 64
    qkv = normal(rng, t, (heads + 2 * kv_heads) * width)
    qkv[:1] *= 1e4
    positions, slots = (rng.permutation(n)[:t].astype("i4") for n in (longest, pages * page))
    cos, sin = normal(rng, longest, width // 2), normal(rng, longest, width // 2)
    pool = np.zeros((pages, kv_heads, page, width), "u1")
    arguments = [t, pages, qkv, cos, sin, positions, slots, poison(t, heads * width), pool,
                 pool.copy()]  # fmt: skip
    q, k, v = rotated_and_written(
        qkv.astype("f8").reshape(t, heads + 2 * kv_heads, width), cos[positions], sin[positions],
        slots, (heads, kv_heads, page, pages), [],
    )  # fmt: skip
    kernel = rope.qkv_rope_write(rope.Heads(heads, kv_heads, width, page), longest, "f8e4m3")
    k, v = (np.clip(pool, -448, 448) for pool in (k, v))
    expected = {"q": q.reshape(t, heads * width), "k_pool": k, "v_pool": v}
    return Case(kernel, arguments, expected, 7e-2)


def _with(build: Callable[..., Case], *more: Any) -> Callable[[np.random.Generator, int], Case]:
    return lambda rng, t: build(rng, t, *more)


FP8: dict[str, Callable[[np.random.Generator, int], Case]] = {
    "embedding": embedding, "experts": experts, "written": written,
    "quantized": quantized, "norm_quantized": norm_quantized,
    "add_norm_quantized": add_norm_quantized, "silu_quantized": silu_quantized,
    "product": _with(product, ScaledMatmul(64, 128, out="f32", rows=16, block_n=32, block_k=64)),
    "product_ragged": _with(product, ScaledMatmul(40, 50, out="f32", bias=True, rows=16,
                                                  block_n=32, block_k=32)),
    "product_i8": _with(product, ScaledMatmul(40, 64, "i8", out="f32", rows=16, block_n=32,
                                              block_k=32)),
    "product_fp8": _with(product, ScaledMatmul(40, 50, x="f8e4m3", out="f32", bias=True, rows=16,
                                               block_n=32, block_k=32)),
    "stream": _with(stream, Matvec(6, 64, "f8e4m3", out="f32")),
    "stream_silu_bias": _with(stream, Matvec(5, 50, "f8e4m3", out="f32", bias=True, silu=True)),
    "stream_ahead": _with(stream, suited(Matvec(6, 8192, "f8e4m3", out="f32"))),
    "stream_i8": _with(stream, Matvec(6, 64, "i8", out="f32")),
}  # fmt: skip
