"""Matmul kernels, compiled and interpreted, against float64."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.build import compile_kernels
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.tvm import emit
from weft.codegen.tvm.emit import emit_tvm
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.products.matmul import Matmul, blocks, matmul, schedule
from weft.tests.codegen.tvm_cases import arrays, compile_one, run, tensors
from weft.tests.each_time import each_time

pytestmark = pytest.mark.usefixtures("ours_reads")

CASES = {
    "plain": Matmul(64, 256), "whole_rows": Matmul(16, 64, block_k=64),
    "bf16": Matmul(40, 144, "bf16", rows=2, block_n=16, block_k=48, bias=True),
    "i8": Matmul(64, 256, "i8", rows=4), "i8_bias": Matmul(24, 64, "i8", bias=True, block_k=64),
    "ragged": Matmul(20, 70, residual=True, rows=2, block_k=64),
    "norm": Matmul(32, 96, norm_eps=1e-5, block_k=48, bias=True),
    "norm_rows": Matmul(32, 96, "bf16", rows=4, norm_eps=1e-5, block_k=96),
    "silu": Matmul(24, 64, silu=True, block_k=64), "silu_i8": Matmul(24, 64, "i8", 4, silu=True),
    "sixteen": Matmul(32, 128, rows=16, block_n=16, residual=True, block_k=128),
    "narrow": Matmul(8, 10, rows=8, block_n=4, block_k=10),
}  # fmt: skip
WEIGHTS = {"f32": ("f4", 1.0), "bf16": ("u2", 1.0), "i8": ("i1", 30.0)}


def make(shape: Matmul, t: int) -> tuple[list, np.ndarray]:
    """Return arguments and the expected result."""
    rng = np.random.default_rng(t + shape.k)
    wide = shape.n * (2 if shape.silu else 1)
    x = rng.standard_normal((t, shape.k)).astype("f4")
    w = (rng.standard_normal((wide, shape.k)) * WEIGHTS[shape.weight][1]).astype("f4")
    if shape.weight == "bf16":
        w = (w.view("u4") >> 16).astype("u2")
        exact = (w.astype("u4") << 16).view("f4")
    else:
        w = exact = w.astype(WEIGHTS[shape.weight][0])
    arguments = [t, x, w, np.full((t, shape.n), np.nan, "f4")]

    def more(*extents: int) -> np.ndarray:
        arguments.append(rng.standard_normal(extents).astype("f4"))
        return arguments[-1].astype("f8")

    scale = more(wide) if shape.weight == "i8" else 1.0
    bias = more(wide) if shape.bias else 0.0
    left = x.astype("f8")
    if shape.norm_eps is not None:
        norm = more(shape.k)
        left = left / np.sqrt((left**2).mean(1, keepdims=True) + shape.norm_eps) * norm
    y = left @ exact.astype("f8").T * scale + bias
    if shape.silu:
        gate, up = y[:, : shape.n], y[:, shape.n :]
        y = gate / (1 + np.exp(-gate)) * up
    return arguments, y + (more(t, shape.n) if shape.residual else 0.0)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * size)


@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    shape = CASES[name]
    for t in (0, 1, 3, shape.rows, 17):
        arguments, wanted = make(shape, t)
        close(run(matmul(shape), arguments)[3], wanted)


@pytest.mark.parametrize("name", CASES)
def test_interpreted(name: str) -> None:
    arguments, wanted = make(CASES[name], 3)
    run_kernel(matmul(CASES[name]), *arguments)
    close(arguments[3], wanted)


@pytest.mark.parametrize("weight", each_time(WEIGHTS.keys(), "bf16"))
def test_schedules_change_nothing_but_rounding(weight: str) -> None:
    shape = Matmul(32, 256, weight, rows=2, block_k=256)
    arguments, wanted = make(shape, 2)
    for plan in (Schedule(parallel=False), Schedule(unroll=4, streams=1), Schedule(vector=8),
                 Schedule(unroll=1, streams=8), Schedule(vector=1)):  # fmt: skip
        close(run(matmul(shape), arguments, plan)[3], wanted)


@pytest.mark.parametrize("rows", each_time([1, 2, 4, 8, 16], 1, 16))
def test_recommended_blocks(rows: int) -> None:
    for n, k, weight in ((96, 256, "f32"), (40, 1536, "bf16")):
        block_n, block_k = blocks(n, k, rows)
        shape = Matmul(n, k, weight, rows, block_n=block_n, block_k=block_k)
        arguments, wanted = make(shape, rows)
        close(run(matmul(shape), arguments, schedule(n, k, rows, weight))[3], wanted)


@pytest.mark.parametrize("name", ["sixteen", "norm_rows", "plain"])
def test_sums_stay_in_the_registers_that_a_cpu_has(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel, counts = matmul(CASES[name]), []
    for registers in (8, 32):
        counts.append(len(re.findall(r"sums\w* = T.alloc_buffer\(\(16,\)", emit_tvm(
            kernel, Schedule(), registers))))  # fmt: skip
        assert counts[-1] <= registers * 3 // 4
    assert counts[0] < counts[1]
    host = emit.vector_registers(16)
    monkeypatch.setattr(emit, "vector_registers", lambda lanes: 40 - host)  # the other kind's
    arguments, wanted = make(CASES[name], 3)
    (other,) = compile_kernels([(kernel, Schedule())], cache=tmp_path).values()
    values = tensors(kernel, arguments)
    other.launch(*values)
    close(arrays(values)[3], wanted)


@pytest.mark.parametrize("weight", ["f32", "bf16"])
def test_what_products_of_many_rows_copy(weight: str) -> None:
    """Both halves turn x round once; f32 weights are read where they lie if that costs nothing."""
    shape = Matmul(32, 64, weight, rows=16, silu=True, block_n=32, block_k=64)
    for registers in (8, 32):
        text = emit_tvm(matmul(shape), Schedule(), registers)
        assert len(re.findall(r"turned\w* = T.alloc_buffer", text)) == 1
        copies = len(re.findall(r"packed\w* = T.alloc_buffer", text))
        assert copies == (0 if weight == "f32" and registers == 32 else 2)
    arguments, wanted = make(shape, 19)
    close(run(matmul(shape), arguments)[3], wanted)


@pytest.mark.parametrize("transposed", [True, False])
def test_what_a_mask_leaves_out_of_the_sum_that_a_product_begins_with(transposed: bool) -> None:
    b = KernelBuilder("begun")
    count, c, x = b.scalar("count"), b.buffer("c", "f32", 2, 8), b.buffer("x", "f32", 2, 8)
    w, out = b.buffer("w", "f32", 8, 8), b.buffer("out", "f32", 2, 8)
    rows, columns, depth = b.expand(b.iota(2), 1), b.expand(b.iota(8), 0), b.expand(b.iota(8), 1)
    begun = b.load(c, rows, columns, mask=b.map("a < b", columns, count), other=0.25)
    product = b.dot(b.load(x, rows, columns), b.load(w, depth, columns), begun, transposed)
    b.store(out, rows, columns, product)
    kernel = b.finish(1)
    for whole in (5, 8):
        rng = np.random.default_rng(whole)
        given = [rng.standard_normal(shape).astype("f4") for shape in ((2, 8), (2, 8), (8, 8))]
        right = given[2].T if transposed else given[2]
        wanted = np.where(np.arange(8) < whole, given[0], 0.25) + given[1] @ right
        close(run(kernel, [whole, *given, np.full((2, 8), np.nan, "f4")])[4], wanted)


def test_tensors_at_odd_offsets() -> None:
    shape = CASES["plain"]
    arguments, wanted = make(shape, 1)
    values = tensors(matmul(shape), arguments)
    shifted = []
    for value in values:
        if isinstance(value, torch.Tensor):
            room = torch.zeros(value.numel() + 3)
            value = room[3:].view(value.shape).copy_(value)
        shifted.append(value)
    compile_one(matmul(shape)).launch(*shifted)
    close(arrays(shifted)[3], wanted)


def test_wrong_arguments_raise() -> None:
    shape = CASES["plain"]
    values = tensors(matmul(shape), make(shape, 1)[0])
    launch = compile_one(matmul(shape)).launch
    with pytest.raises((ValueError, TypeError)):
        launch(values[0], values[1], values[2].double(), values[3])
    with pytest.raises((ValueError, TypeError)):
        launch(2, *values[1:])


WORDS = {
    "f32": Matmul(96, 64, block_k=64, block_n=32, words=True),
    "norm_rows": Matmul(96, 64, rows=4, norm_eps=1e-5, block_k=64, block_n=32, words=True),
    "i8_bias": Matmul(96, 64, "i8", rows=2, bias=True, block_k=32, block_n=16, words=True),
    "sixteen": Matmul(96, 64, "bf16", rows=16, block_k=64, block_n=32, words=True),
}


def some_words(shape: Matmul, t: int, count: int) -> tuple[list, np.ndarray]:
    """Return arguments for some words, and the expected columns."""
    (_, x, w, _, *rest), wanted = make(shape, t)
    words = np.sort(np.random.default_rng(count).permutation(shape.n)[:count]).astype("i4")
    out = np.full((t, count + 7), np.nan, "f4")
    return [t, count, count + 7, x, w, words, out, *rest], wanted[:, words]


@pytest.mark.parametrize("name", WORDS)
def test_columns_of_some_words(name: str) -> None:
    """Few and many, whole blocks and not, interpreted too; what stands behind them stays."""
    shape = WORDS[name]
    for t, count in ((0, 5), (1, 1), (3, 32), (shape.rows, 45), (17, 96)):
        arguments, wanted = some_words(shape, t, count)
        found = run(matmul(shape), arguments)[6]
        close(found[:, :count], wanted)
        assert np.isnan(found[:, count:]).all()
    assert prove_bounds(matmul(shape)).ok
    arguments, wanted = some_words(shape, 3, 45)
    run_kernel(matmul(shape), *arguments)
    close(arguments[6][:, :45], wanted)


def test_rows_of_the_next_words_are_asked_for_within_their_list() -> None:
    """Of several rows: one waits for its weights in any case."""
    for name in ("norm_rows", "sixteen"):
        source = compile_one(matmul(WORDS[name])).source
        ahead = [line for line in source.splitlines() if "m_prefetch" in line]
        assert ahead and all("words[T.min(" in line for line in ahead)
    assert "m_prefetch" not in compile_one(matmul(WORDS["f32"])).source
