"""The sanitizer's run: what counts as clean, that selections have tests, that faults are found."""

from __future__ import annotations

import re

import pytest
from weft.tests.sanitize.run_sanitizer import (
    CHECKS,
    ROOT,
    Report,
    faults_in,
    sanitizer,
    watch_planted,
    watch_tests,
)

OUTPUT = """========= COMPUTE-SANITIZER
.....                                                                    [100%]
========= ERROR SUMMARY: {} errors
"""


def test_faults_are_counted() -> None:
    assert faults_in(OUTPUT.format(0)) == 0
    assert faults_in(OUTPUT.format(12)) == 12
    hazards = "========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)"
    assert faults_in(hazards) == 3
    assert faults_in("Device not supported") is None


@pytest.mark.parametrize(("faults", "code"), [(1, 0), (0, 1), (0, 5), (None, 0)])
def test_what_is_not_clean(faults: int | None, code: int) -> None:
    assert Report("memcheck", "", 0, 0, "").clean
    assert not Report("memcheck", "", faults, code, "").clean


@pytest.mark.parametrize(
    "tests", sorted({each for selections in CHECKS.values() for each in selections})
)
def test_each_selection_has_tests(tests: tuple[str, ...]) -> None:
    name = tests[tests.index("-k") + 1] if "-k" in tests else "test_"
    for file in (each for each in tests if each.endswith(".py")):
        text = (ROOT / file).read_text()
        assert f"def {name}" in text and "mark.gpu" in text


def test_every_file_of_kernels_tests_is_watched() -> None:
    """But those of emitted text alone: what they run are no kernels of ours."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests/codegen").glob("test_*.py")
             if re.search(r"^(@| +)pytest\.mark\.gpu\b", path.read_text(), re.M)}  # fmt: skip
    alone = "number_types", "triton_barriers", "triton_reductions", "triton_signs"
    text = {f"tests/codegen/test_{what}.py" for what in alone}
    watched = {each for tests in CHECKS["memcheck"] for each in tests}
    assert files - text <= watched and len(files) > 10


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "initcheck"])
def test_a_planted_fault_is_found(tool: str) -> None:
    program = sanitizer()
    if program is None:
        pytest.skip("needs compute-sanitizer")
    assert watch_planted(program, tool).faults


@pytest.mark.gpu
def test_attention_by_parts_is_clean() -> None:
    program = sanitizer()
    if program is None:
        pytest.skip("needs compute-sanitizer")
    report = watch_tests(
        program, "memcheck", ("tests/codegen/test_triton_gpu.py", "-k", "test_attention_parts")
    )
    assert report.clean, report.output
