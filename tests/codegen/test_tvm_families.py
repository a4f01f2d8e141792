"""Each family of small kernels through the TVM emitter, on empty, single, few and ragged rows."""

from __future__ import annotations

import pytest
from weft.tests.codegen.kernel_cases import FAMILIES, SIZES, check, make
from weft.tests.codegen.tvm_cases import run

pytestmark = pytest.mark.usefixtures("ours_reads")


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_for_cpu(family: str) -> None:
    for size in SIZES:
        case = make(family, size, seed=2)
        check(case, run(case.kernel, case.arguments))
