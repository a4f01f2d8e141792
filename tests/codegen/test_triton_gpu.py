"""The emitted Triton files on a GPU: every kernel family, and random kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.passes.tile.rows.feed import COPIED, copy_pages
from weft.tests.codegen.gpu_run import on_gpu
from weft.tests.codegen.kernel_cases import FAMILIES, SIZES, check, make
from weft.tests.codegen.large_cases import LARGE, make_large
from weft.tests.codegen.parts_cases import (
    GROUPS,
    QUERIES,
    SHAPES,
    expected,
    launched,
    planned,
    tolerance,
    tree,
)
from weft.tests.codegen.random_kernels import Drawn, drawn_kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, tmp_path: Path) -> None:
    for size in SIZES:
        case = make(family, size, seed=5)
        check(case, on_gpu(case.kernel, case.arguments, tmp_path))


@pytest.mark.parametrize("family", LARGE)
def test_large_family(family: str, tmp_path: Path) -> None:
    for rows in (0, 1, 7):
        case = make_large(family, rows, seed=rows)
        check(case, on_gpu(case.kernel, case.arguments, tmp_path))


@pytest.mark.parametrize("name", SHAPES)
def test_attention_parts(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    for groups, own in ((g, [n for _, owns in GROUPS[g] for n in owns]) for g in GROUPS):
        queries = [min(pair) for pair in zip(QUERIES[groups], own, strict=True)]
        for counts, cascade in ((None, True), (None, False), (queries, None)):
            case = tree(shape, GROUPS[groups], counts, seed=len(own))
            work = planned(shape, case, cascade=cascade)
            found = launched(lambda k, a: on_gpu(k, a, tmp_path), shape, case, work)
            np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@given(drawn=drawn_kernels())
@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_random_kernels(drawn: Drawn, tmp_path: Path) -> None:
    found = on_gpu(drawn.kernel, drawn.arguments, tmp_path)[-1]
    expected = drawn.arguments[-1].copy()
    run_kernel(drawn.kernel, *drawn.arguments[:-1], expected, dtype=np.float64)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_a_pool_of_more_elements_than_32_bits_count(tmp_path: Path) -> None:
    layers, pages, blocks = 2, 4097, 1024  # a layer: 2^30 + 2^18 elements, both more than 2^31
    pool = torch.zeros(layers, pages, blocks, COPIED, dtype=torch.int32, device="cuda")
    pool[:, pages - 1] = 7
    source, target = (torch.tensor([page], dtype=torch.int32, device="cuda")
                      for page in (pages - 1, pages - 2))  # fmt: skip
    launch = load_launcher(emit(copy_pages()), tmp_path)
    launch(1, layers, pages, blocks, source, target, pool)
    assert (pool[:, pages - 2] == 7).all() and not pool[:, : pages - 2].any()
