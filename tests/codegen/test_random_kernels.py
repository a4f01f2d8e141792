"""Random kernels: the reference, the Triton interpreter, the TVM emitter and the prover agree."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.tests.codegen.random_kernels import Drawn, drawn_kernels
from weft.tests.codegen.tvm_cases import run as run_compiled


def examples(number: int) -> Any:
    return settings(
        max_examples=number, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


def reference(drawn: Drawn, dtype: Any = np.float64) -> np.ndarray:
    arguments = copy.deepcopy(drawn.arguments)
    run_kernel(drawn.kernel, *arguments, dtype=dtype)
    return arguments[-1]


def agree(found: np.ndarray, drawn: Drawn) -> None:
    np.testing.assert_allclose(found, reference(drawn), rtol=2e-3, atol=2e-3)


@given(drawn_kernels())
@examples(60)
def test_verified_printed_and_proven(drawn: Drawn) -> None:
    module = Module((drawn.kernel,))
    verify(module, ("tile",))
    assert parse_module(print_module(module)) == module
    assert prove_bounds(drawn.kernel).ok


@given(drawn_kernels())
@examples(60)
def test_single_precision(drawn: Drawn) -> None:
    agree(reference(drawn, np.float32), drawn)


@given(drawn=drawn_kernels())
@examples(40)
def test_triton_interpreter(drawn: Drawn, triton_interpreter) -> None:
    agree(triton_interpreter.run(drawn.kernel, drawn.arguments)[-1], drawn)


@given(drawn_kernels())
@examples(8)
def test_compiled_for_cpu(drawn: Drawn) -> None:
    agree(run_compiled(drawn.kernel, drawn.arguments)[-1], drawn)


@pytest.mark.slow
@given(drawn=drawn_kernels())
@examples(100)
def test_all_readers_at_length(drawn: Drawn, triton_interpreter) -> None:
    agree(triton_interpreter.run(drawn.kernel, drawn.arguments)[-1], drawn)
    agree(run_compiled(drawn.kernel, drawn.arguments)[-1], drawn)
