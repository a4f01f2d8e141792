"""Programs that wait for each other inside a launch: emitted, interpreted, proven, compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.evaluate import Evaluator
from weft.codegen.meaning.reference import phases, run_kernel
from weft.codegen.triton.emit import emit
from weft.ir.core import Operation, walk
from weft.ir.dialects.tile import MOST_MET
from weft.ir.expression import read
from weft.ir.schedule import Schedule
from weft.ir.sparse.policy import few_pairs
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.meeting import MEETS, CannotMeet, meeting
from weft.passes.tile.selection.row_parts import LEAST_PARTS, MOST_OF_MANY, PARTS, SHARES, extent

HEADS, PARTS_OF_EACH = 2, 8


def opened(name: str, *more: str) -> tuple[KernelBuilder, tuple[Any, ...], dict[str, Any]]:
    """Open a kernel over key heads, rows and parts, and its buffers."""
    b = KernelBuilder(name)
    b.scalar("B")
    buffers = {n: b.buffer(n, "i32", "B", HEADS, PARTS_OF_EACH) for n in ("found", *more)}
    ids = tuple(b.program_id(axis, n) for axis, n in enumerate(("head", "row", "part")))
    return b, ids, buffers


def squares() -> Operation:
    """found[row, head, part] = (row + 2 head + part) squared."""
    b, (head, row, part), buffers = opened("squares")
    value = b.map("(a + 2 * b + c) * (a + 2 * b + c)", row, head, part, dtype="i32", hint="value")
    b.store(buffers["found"], row, head, part, value)
    return b.finish(HEADS, "B", PARTS_OF_EACH, requires=("B >= 0",))


def sums() -> Operation:
    """total[row, head, part] = what all parts of the row and head have found, and part."""
    b, (head, row, part), buffers = opened("sums", "total")
    value = b.load(buffers["found"], row, head, b.iota(PARTS_OF_EACH), hint="value")
    total = b.map("a + b", b.reduce("sum", value, 0), part, dtype="i32", hint="total")
    b.store(buffers["total"], row, head, part, total)
    return b.finish(HEADS, "B", PARTS_OF_EACH, requires=("B >= 0",))


def arguments(rows: int = 3) -> list[Any]:
    found = np.full((rows, HEADS, PARTS_OF_EACH), -1000, "i4")
    return [rows, found, found.copy(), np.zeros((rows, HEADS), "i4")]


def expected(rows: int = 3) -> np.ndarray:
    row, head, part = np.indices((rows, HEADS, PARTS_OF_EACH))
    found = ((row + 2 * head + part) ** 2).sum(2, keepdims=True) + part
    return found.astype("i4")  # sums of many rows wrap, as the kernels' do


def test_what_all_have_written_is_read_after_they_met(triton_interpreter: Any) -> None:
    kernel = meeting("both", squares(), sums())
    assert [v.name for v in kernel.regions[0].arguments] == ["B", "found", "total", MEETS]
    run_kernel(kernel, *(given := arguments()))
    np.testing.assert_array_equal(given[2], expected())
    np.testing.assert_array_equal(triton_interpreter.run(kernel, arguments())[2], expected())


def test_without_a_meeting_programs_read_what_was_not_there() -> None:
    """The planted fault: programs that do both one after another, as they come."""
    kernel = meeting("both", squares(), sums())
    region = kernel.regions[0]
    kept = tuple(op for op in region.operations if op.name != "tile.meet")
    broken = replace(kernel, regions=(replace(region, operations=kept),))
    run_kernel(broken, *(given := arguments()))
    assert (given[2] != expected()).any()


def test_those_that_meet_begin_one_after_another() -> None:
    """Their axis is the grid's first, which a GPU counts up before the others."""
    kernel = meeting("both", squares(), sums(), sums())
    assert kernel["grid"] == (str(PARTS_OF_EACH), str(HEADS), "B")
    (meets,) = {op["axis"] for op in walk(kernel.regions[0].operations) if op.name == "tile.meet"}
    assert meets == 0 and len(list(phases(kernel))) == 3
    names = [v.name for op in walk(kernel.regions[0].operations) for v in op.results]
    assert len(names) == len(set(names))


def test_parts_of_a_row_are_as_many_as_may_meet() -> None:
    """Powers of two, at most as many as a meeting counts, and as kernels for many pairs read counts
    of, and no fewer than counters are sized by: whatever the rows and key heads. A share has whole
    parts."""
    for pairs in range(1, 2000):
        count, shares = (int(read(extent(parts, 1), Evaluator({"B": np.int64(pairs)})))
                         for parts in (PARTS, SHARES))  # fmt: skip
        few = few_pairs(pairs, 1)
        most = MOST_MET if few else MOST_OF_MANY
        assert count >= LEAST_PARTS["few" if few else "many"] >= LEAST_PARTS[""]
        assert 0 < shares <= count <= most and most % count == count % shares == 0


def test_kernels_of_other_grids_cannot_meet() -> None:
    b, (head, row, part), buffers = opened("other")
    b.store(buffers["found"], row, head, part, b.full(0, "i32"))
    other = b.finish(HEADS + 1, "B", PARTS_OF_EACH)
    with pytest.raises(CannotMeet, match="@squares cannot meet @other"):
        meeting("both", squares(), other)
    b = KernelBuilder("typed")
    b.scalar("B")
    b.buffer("found", "f32", "B")
    with pytest.raises(CannotMeet, match="two types"):
        meeting("both", squares(), b.finish(HEADS, "B", PARTS_OF_EACH))


def test_counters_are_proven_to_be_there() -> None:
    kernel = meeting("both", squares(), sums())
    proof = prove_bounds(kernel)
    assert proof.ok and [a.axis for a in proof.accesses if a.buffer == MEETS] == [0, 1]
    wider = kernel.with_attributes(grid=(str(PARTS_OF_EACH), str(HEADS + 1), "B"))
    failures = prove_bounds(wider, allow_unproven=True).failures
    assert [text for text in failures if f"%{MEETS} is not proven" in text]


def test_on_a_gpu_one_adds_and_watches() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    kernel = meeting("both", squares(), sums(), sums())
    text = compile_offline(kernel, Schedule(num_warps=2))["ptx"]
    assert text.count("atom.acq_rel.gpu.global.add") == text.count("ld.acquire.gpu") == 2
    chained = emit(kernel, Schedule(chained=True)).text
    assert chained.index("gdc_wait()") < chained.index(" meet(meets")


@pytest.mark.gpu
def test_gpu_counters_are_left_as_they_may_be_found(gpu: Any) -> None:
    """Launch after launch, of few rows and of many more programs than run at once."""
    kernel = meeting("both", squares(), sums())
    for rows in (1, 3, 40_000):
        given = arguments(rows)
        given[3][:] = np.int32(2**31 - MOST_MET)  # and past where a counter wraps
        found = gpu(kernel, given)
        np.testing.assert_array_equal(found[2], expected(rows))
        assert (found[3] == -(2**31)).all()
