"""Each family of small kernels: the reference interpreter against float64 oracles, the Triton
interpreter, and the offline compiler, on empty, single, few and ragged rows."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.tests.codegen.kernel_cases import FAMILIES, SIZES, check, make

every_size = pytest.mark.parametrize("size", SIZES)
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_verifies_and_round_trips(family: str) -> None:
    module = Module((make(family, "one").kernel,))
    verify(module, ("tile",))
    text = print_module(module)
    assert parse_module(text) == module


@every_size
@every_family
def test_reference(family: str, size: str) -> None:
    case = make(family, size)
    arguments = copy.deepcopy(case.arguments)
    run_kernel(case.kernel, *arguments)
    check(case, arguments)


@every_family
def test_reference_in_double_precision(family: str) -> None:
    case = make(family, "few", seed=3)
    arguments = copy.deepcopy(case.arguments)
    run_kernel(case.kernel, *arguments, dtype=np.float64)
    check(case, arguments)


@every_size
@every_family
def test_triton_interpreter(family: str, size: str, triton_interpreter) -> None:
    if (family, size) == ("sample", "ragged"):
        pytest.skip("interpreting it takes seconds; fewer rows take the same ways")
    case = make(family, size, seed=1)
    check(case, triton_interpreter.run(case.kernel, case.arguments))


@every_family
def test_compiles_for_hopper(family: str) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    built = compile_offline(make(family, "one").kernel)
    assert ".target sm_90" in built["ptx"]
    assert len(built["cubin"]) > 1000


def test_strides_of_extents_are_multiplied_in_64_bits() -> None:
    text = emit(make("copy_pages", "one").kernel).text
    assert "tl.cast(layer, tl.int64) * 256 * N * B" in text
    assert not re.search(r"tl\.int64\) \* \(", text)
