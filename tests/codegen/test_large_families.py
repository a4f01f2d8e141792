"""Matmul and attention kernels: proven in bounds, interpreted by Triton, compiled for Hopper."""

from __future__ import annotations

import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.tests.codegen.kernel_cases import check
from weft.tests.codegen.large_cases import LARGE, make_large

every_family = pytest.mark.parametrize("family", LARGE)


@every_family
def test_proven(family: str) -> None:
    assert prove_bounds(make_large(family, 1).kernel).ok


@every_family
def test_triton_interpreter(family: str, triton_interpreter) -> None:
    for rows in (0, 1, 7):
        case = make_large(family, rows, seed=rows)
        check(case, triton_interpreter.run(case.kernel, case.arguments))


@every_family
def test_compiles_for_hopper(family: str) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    assert len(compile_offline(make_large(family, 1).kernel)["cubin"]) > 1000
