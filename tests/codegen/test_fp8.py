"""8-bit floats: the format itself, kernels over it by every reader, attention over such pages."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.arrays import narrow, widen
from weft.codegen.meaning.reference import run_kernel
from weft.passes.tile.attention.parts import Parts
from weft.tests.codegen.fp8_cases import FP8, SIZES
from weft.tests.codegen.kernel_cases import Case
from weft.tests.codegen.parts_cases import GROUPS, QUERIES, Tree, expected, launched, planned, tree
from weft.tests.each_time import each_time

each_family = pytest.mark.parametrize("family", FP8)
each_size = pytest.mark.parametrize("size", SIZES)


def check(case: Case, arguments: list) -> None:
    types = {value.name: value.type for value in case.kernel.regions[0].arguments}
    for name, wanted in case.expected.items():
        dtype = types[name].parameters[0].name  # type: ignore[union-attr]
        found = widen(arguments[case.position(name)], dtype)
        np.testing.assert_allclose(found, wanted, rtol=case.tolerance, atol=case.tolerance)


def test_every_byte_means_what_torch_says() -> None:
    codes = np.arange(256, dtype=np.uint8)
    meant = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(widen(codes, "f8e4m3"), meant)


def test_rounding_is_torchs() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([
        rng.standard_normal(4000) * 10.0 ** rng.uniform(-4, 3, 4000), [0.0, -0.0, 448, -448, 464],
        (widen(np.arange(126, dtype=np.uint8), "f8e4m3")
         + widen(np.arange(1, 127, dtype=np.uint8), "f8e4m3")) / 2,
    ]).astype("f4")  # fmt: skip
    values = values[np.abs(values) <= 464]
    found = narrow(values, "f8e4m3")
    wanted = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(found, wanted)


@each_family
def test_bounds_are_proven(family: str) -> None:
    assert prove_bounds(FP8[family](np.random.default_rng(0), 1).kernel).ok


@each_size
@each_family
def test_reference(family: str, size: str) -> None:
    case = FP8[family](np.random.default_rng(1), SIZES[size])
    arguments = copy.deepcopy(case.arguments)
    run_kernel(case.kernel, *arguments)
    check(case, arguments)


@each_size
@each_family
def test_triton_interpreter(family: str, size: str, triton_interpreter) -> None:
    case = FP8[family](np.random.default_rng(2), SIZES[size])
    check(case, triton_interpreter.run(case.kernel, case.arguments))


@pytest.mark.gpu
@each_family
def test_gpu(family: str, gpu) -> None:
    for size in SIZES.values():
        case = FP8[family](np.random.default_rng(2), size)
        check(case, gpu(case.kernel, case.arguments))


@each_family
def test_compiles_for_hopper(family: str) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    case = FP8[family](np.random.default_rng(0), 1)
    assert len(compile_offline(case.kernel)["cubin"]) > 1000


PAGES = Parts(8, 2, 32, page=8, kv="f8e4m3", few=16, many=32, keys=16, keys_many=8)


def narrowed(case: Tree) -> Tree:
    """The same sequences over fp8 pages; the oracle reads what these hold."""
    wide = [(pool.astype("u4") << 16).view("f4") for pool in case.pools]
    return Tree(case.batch, [narrow(pool, "f8e4m3") for pool in wide], case.q)


@pytest.mark.parametrize("groups", ["apart", "forks"])
def test_attention_over_fp8_pages(groups: str, triton_interpreter) -> None:
    check_attention(groups, triton_interpreter.run)


@pytest.mark.gpu
@pytest.mark.parametrize("groups", ["apart", "forks"])
def test_gpu_attention_over_fp8_pages(groups: str, gpu) -> None:
    check_attention(groups, gpu)


def check_attention(groups: str, run) -> None:
    bf16 = Parts(8, 2, 32, page=8, few=16, many=32, keys=16, keys_many=8)
    case = narrowed(tree(bf16, GROUPS[groups], QUERIES[groups]))
    work = planned(PAGES, case)
    found = launched(run, PAGES, case, work)
    held = Tree(case.batch, [widen(pool, "f8e4m3") for pool in case.pools], case.q)
    np.testing.assert_allclose(found, expected(bf16, held), rtol=0, atol=2e-2)


@pytest.mark.parametrize("shared", each_time((False, True), False))
def test_attention_over_fp8_pages_compiles_for_hopper(shared: bool) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline
    from weft.passes.tile.attention.ways import launches, tuned
    from weft.passes.tile.gpu_schedules import gpu_schedule

    for kernel in launches(tuned(Parts(32, 8, 128, page=64, kv="f8e4m3"), shared)):
        schedule = gpu_schedule(kernel, apart=not shared)
        assert len(compile_offline(kernel, schedule)["cubin"]) > 1000
