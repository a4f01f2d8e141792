"""Products that stream bf16 weights, for one row and for some: by every reader, against float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.arrays import widen
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.passes.tile.products.head_words import HeadWords, head_words
from weft.passes.tile.products.matvec import Matvec, matvec, matvec_schedule, suited
from weft.passes.tile.products.skinny_matmul import SkinnyMatmul, skinny_matmul
from weft.passes.tile.rows.elementwise import add_rmsnorm
from weft.tests.codegen.kernel_cases import Case, bf16, from_bf16, normal, poison
from weft.tests.codegen.kernel_oracles import normed, silu

SIZES = {"empty": 0, "one": 1, "few": 3, "ragged": 21}


def stream(rng: np.random.Generator, t: int, shape: Matvec) -> Case:
    wide = shape.n * (2 if shape.silu else 1)
    x, w = bf16(normal(rng, t, shape.k)), bf16(normal(rng, wide, shape.k) / shape.k**0.5)
    arguments: list[Any] = [t, x, w, poison(t, shape.n)]
    y = from_bf16(x)
    if shape.bias:
        arguments.append(normal(rng, wide))
    y = y @ from_bf16(w).T
    y = y + arguments[4] if shape.bias else y
    y = silu(y[:, : shape.n]) * y[:, shape.n :] if shape.silu else y
    if shape.residual:
        arguments.append(normal(rng, t, shape.n))
        y = y + arguments[-1]
    return Case(matvec(shape), arguments, {"out": y}, 2e-3)


def skinny(rng: np.random.Generator, t: int, shape: SkinnyMatmul) -> Case:
    wide = shape.n * (2 if shape.silu else 1)
    x, w = bf16(normal(rng, t, shape.k)), bf16(normal(rng, wide, shape.k) / shape.k**0.5)
    deep = shape.k // shape.cuts
    given = w.reshape(wide, -1, shape.block_k).swapaxes(0, 1).copy() if shape.packed else w
    parts = [slice(first, first + deep) for first in range(0, shape.k, deep)]
    sums = np.stack([from_bf16(x)[:, part] @ from_bf16(w)[:, part].T for part in parts])
    y = sums if shape.cuts > 1 else sums[0]
    y = silu(y[:, : shape.n]) * y[:, shape.n :] if shape.silu else y
    out = np.full(y.shape, 0x7FC0, "u2")
    return Case(skinny_matmul(shape), [t, x, given, out], {"out": y}, 2e-2)


def added(rng: np.random.Generator, t: int, parts: int) -> Case:
    x, y, w = normal(rng, t, 96), normal(rng, parts, t, 96), normal(rng, 96)
    total = x + y.astype("f8").sum(0)
    arguments = [t, x, y, w, poison(t, 96), poison(t, 96)]
    expected = {"total": total, "out": normed(total, w, 1e-5)}
    return Case(add_rmsnorm(96, 1e-5, parts=parts), arguments, expected)


def added_rounded(rng: np.random.Generator, t: int, parts: int) -> Case:
    x, y, w = bf16(normal(rng, t, 96)), bf16(normal(rng, parts, t, 96)), normal(rng, 96)
    total = from_bf16(x) + from_bf16(y).astype("f8").sum(0)
    arguments: list[Any] = [t, x, y, w, *(np.full((t, 96), 0x7FC0, "u2") for _ in range(2))]
    expected = {"total": total, "out": normed(total, w, 1e-5)}
    return Case(add_rmsnorm(96, 1e-5, "bf16", parts=parts), arguments, expected, 2e-2)


def listed(rng: np.random.Generator, r: int, count: int) -> Case:
    shape = HeadWords(70, 64, rows=16, block_n=16, block_k=32, programs=2)
    x, w = bf16(normal(rng, r, shape.k)), bf16(normal(rng, shape.vocab, shape.k) / 8)
    words = rng.permutation(shape.vocab).astype("i4")
    words[:count].sort()
    words[:1] = -1 if count else words[:1]  # which is no word
    some = words[:count][words[:count] >= 0]
    logits = poison(r, shape.vocab)  # and stays where nothing is listed
    wanted = logits.astype("f8")
    wanted[:, some] = from_bf16(x) @ from_bf16(w)[some].T
    arguments = [r, x, w, np.array([count], "i4"), words, logits]
    return Case(head_words(shape), arguments, {"logits": wanted}, 2e-3)


def _with(build: Callable[..., Case], *more: Any) -> Callable[[np.random.Generator, int], Case]:
    return lambda rng, t: build(rng, t, *more)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Case]] = {
    "stream": _with(stream, Matvec(6, 64, out="f32")),
    "stream_long_residual": _with(stream, Matvec(5, 4096, out="f32", residual=True)),
    "stream_parts": _with(stream, Matvec(6, 100, out="f32", bias=True, silu=True, residual=True,
                                         block_n=4, most=32)),
    "stream_gated": _with(stream, suited(Matvec(7, 4096, out="f32", silu=True))),
    "stream_deep": _with(stream, suited(Matvec(7, 12288, out="f32", residual=True))),
    "stream_ahead": _with(stream, Matvec(5, 512, out="f32", block_n=1, most=64, asked=400)),
    "skinny": _with(skinny, SkinnyMatmul(64, 128, rows=16, block_n=32, block_k=64)),
    "skinny_silu": _with(skinny, SkinnyMatmul(32, 64, True, rows=16, block_n=16, block_k=32)),
    "skinny_cut": _with(skinny, SkinnyMatmul(64, 128, cuts=4, rows=16, block_n=32, block_k=16)),
    "skinny_packed": _with(skinny, SkinnyMatmul(48, 64, True, rows=16, block_n=16, block_k=32,
                                                columns=12, packed=True)),
    "listed": _with(listed, 37), "listed_all": _with(listed, 70), "listed_none": _with(listed, 0),
    "added": _with(added, 3), "added_one": _with(added, 1), "added_bf16": _with(added_rounded, 4),
}  # fmt: skip

each_family = pytest.mark.parametrize("family", FAMILIES)


def check(case: Case, arguments: list[Any]) -> None:
    types = {value.name: value.type for value in case.kernel.regions[0].arguments}
    for name, wanted in case.expected.items():
        dtype = types[name].parameters[0].name  # type: ignore[union-attr]
        found = widen(arguments[case.position(name)], dtype)
        wanted = wanted.reshape(found.shape)
        np.testing.assert_allclose(found, wanted, rtol=case.tolerance, atol=case.tolerance)


def of(family: str, size: int, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    case = FAMILIES[family](rng, size)
    if family == "added_one":
        case.arguments[2] = case.arguments[2][0]
    return case


def test_rounded_parts_lose_what_one_rounding_of_their_sum_does() -> None:
    """Parts' squares add up to their sum's, in the mean, and each error is as large as its part: P
    parts rounded apart err as a result rounded once does, as the library's is. At most a part errs
    by half a unit in the last place, 2^-8 of it."""
    rng, parts = np.random.default_rng(3), 4
    case = skinny(rng, 48, SkinnyMatmul(64, 512, cuts=parts, rows=16, block_n=32, block_k=32))
    exact = case.expected["out"].astype("f8")
    arguments = copy.deepcopy(case.arguments)
    run_kernel(case.kernel, *arguments)
    errors = from_bf16(arguments[3]).astype("f8").sum(0) - exact.sum(0)
    once = torch.from_numpy(exact.sum(0)).bfloat16().double().numpy() - exact.sum(0)
    assert np.std(errors) == pytest.approx(np.std(once), rel=0.1)
    assert (abs(errors) <= 2.0**-8 * abs(exact).sum(0) + 1e-5).all()
    truncated = from_bf16(bf16(exact)).sum(0)  # what would not pass
    assert np.std(truncated - exact.sum(0)) > 1.5 * np.std(once)


def test_weights_leave_the_caches_first_and_rows_stay() -> None:
    text = emit(matvec(suited(Matvec(8, 64, residual=True)))).text
    loads = [line for line in text.splitlines() if "tl.load(" in line]
    marked = ["evict_first" in line for line in loads]
    assert any(marked) and marked == ["tl.load(w " in line for line in loads]


def test_a_row_of_few_results_is_read_whole() -> None:
    """As measured: by eight warps, but for sums with a residual, 8 bits, or many results."""
    shapes = [Matvec(6144, 4096), Matvec(4096, 4096, residual=True), Matvec(128256, 4096),
              Matvec(14336, 4096, silu=True), Matvec(6144, 4096, weight="f8e4m3")]  # fmt: skip
    found = [(suited(shape).block_k, matvec_schedule(matvec(suited(shape))).num_warps)
             for shape in shapes]  # fmt: skip
    assert found == [(4096, 8), (4096, 4), (2048, 4), (2048, 8), (2048, 4)]


@each_family
def test_bounds_are_proven(family: str) -> None:
    assert prove_bounds(of(family, 1, 0).kernel).ok


@pytest.mark.parametrize("size", SIZES)
@each_family
def test_reference(family: str, size: str) -> None:
    case = of(family, SIZES[size], 1)
    arguments = copy.deepcopy(case.arguments)
    run_kernel(case.kernel, *arguments)
    check(case, arguments)


@pytest.mark.parametrize("size", SIZES)
@each_family
def test_triton_interpreter(family: str, size: str, triton_interpreter: Any) -> None:
    case = of(family, SIZES[size], 2)
    check(case, triton_interpreter.run(case.kernel, case.arguments))


@pytest.mark.gpu
@each_family
def test_gpu(family: str, gpu: Any) -> None:
    for size in SIZES.values():
        case = of(family, size, 2)
        check(case, gpu(case.kernel, case.arguments))


@each_family
def test_compiles_for_hopper(family: str) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    assert len(compile_offline(of(family, 1, 0).kernel)["cubin"]) > 1000
