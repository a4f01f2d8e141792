"""Attention of one row whose last programs join what all left: emitted, interpreted, proven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Module, Operation, walk
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.verifier import verify
from weft.passes.tile.attention.parts import Parts, attention_parts
from weft.passes.tile.attention.ways import CROWDED, Variant, joined, variants
from weft.passes.tile.builder import KernelBuilder
from weft.tests.codegen.parts_cases import SHAPES, arguments, expected, planned, tolerance, tree
from weft.tests.each_time import each_time

FEW = {name: replace(SHAPES[name], many=0, joins=8)
       for name in ("f32", "bf16", "paged", "odd_group", "one_tile")}  # fmt: skip


def given(shape: Parts, case: Any, work: Any) -> list[Any]:
    """Return the kernel's arguments: those of both kernels that it stands for, then counters."""
    parts, (_, joined, more, _, query, start, *_) = arguments(shape, case, work)
    return [*parts, joined, more, query, start, np.zeros(shape.kv_heads, "i4")]


def run(kernel: Operation, *arguments: Any) -> list[Any]:
    run_kernel(kernel, *arguments)
    return list(arguments)


def found_of(shape: Parts, arguments: list[Any]) -> np.ndarray:
    """Return what was written, and see to it that counters are as they were."""
    names = [value.name for value in attention_parts(shape).regions[0].arguments]
    assert not arguments[names.index("arrived")].any()
    out = arguments[names.index("out")]
    return (out.astype("u4") << 16).view("f4") if out.dtype == np.uint16 else out


@pytest.mark.parametrize("shape", each_time(FEW, "f32", "odd_group"))
def test_proven_and_round_trips(shape: Parts) -> None:
    kernel = attention_parts(shape)
    module = Module((kernel,))
    verify(module, ("tile",))
    assert parse_module(print_module(module)) == module
    assert prove_bounds(kernel).ok
    facts = (fact for fact in kernel["requires"] if "merge_start" not in fact)
    assert not prove_bounds(kernel.with_attributes(requires=tuple(facts)), allow_unproven=True).ok


@pytest.mark.parametrize("shape", each_time(FEW, "bf16", "one_tile"))
def test_the_last_program_joins_what_all_have_left(shape: Parts) -> None:
    for length in (0, 1, 15, 16, 33, 100, 171):
        case = tree(shape, [(0, [length])], seed=length)
        for chunk in (0, 16, 32):
            work = planned(shape, case, chunk=chunk)
            found = found_of(shape, run(attention_parts(shape), *given(shape, case, work)))
            if not length:
                continue  # nobody reads it
            np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


def test_items_that_do_nothing_come_too() -> None:
    """A recording has places for more items than a step has: of no rows."""
    shape = FEW["f32"]
    case = tree(shape, [(0, [33])])
    work = planned(shape, case, chunk=8)
    none = np.zeros(3, "i4")
    padded = replace(work, **{name: np.concatenate([getattr(work, name), none]) for name in (
        "item_row", "item_rows", "item_page", "item_low", "item_high")})  # fmt: skip
    found = found_of(shape, run(attention_parts(shape), *given(shape, case, padded)))
    np.testing.assert_allclose(found, expected(shape, case), rtol=0, atol=tolerance(shape))


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_triton_interpreter(name: str, triton_interpreter: Any) -> None:
    shape = FEW[name]
    for length, chunk in ((70, 16), (16, 0)):
        case = tree(shape, [(0, [length])], seed=2)
        work = planned(shape, case, chunk=chunk)
        after = triton_interpreter.run(attention_parts(shape), given(shape, case, work))
        np.testing.assert_allclose(
            found_of(shape, after), expected(shape, case), rtol=0, atol=tolerance(shape)
        )


def test_who_comes_last_is_told_once_a_launch() -> None:
    b = KernelBuilder("lasts")
    b.scalar("W")
    told, counter = b.buffer("told", "i32", 3, "W"), b.buffer("counter", "i32", 3)
    head, item = b.program_id(0), b.program_id(1)
    b.store(told, head, item, b.last(counter, head, axis=1))
    kernel = b.finish(3, "W", requires=("W >= 0",))
    verify(Module((kernel,)), ("tile",))
    assert prove_bounds(kernel).ok
    for _ in range(2):
        run_kernel(kernel, 4, told_of := np.full((3, 4), 7, "i4"), counted := np.zeros(3, "i4"))
        assert told_of.tolist() == [[0, 0, 0, 1]] * 3 and not counted.any()
    wider = kernel.with_attributes(grid=("4", "W"))
    assert not prove_bounds(wider, allow_unproven=True).ok


def test_on_a_gpu_one_thread_adds_between_barriers() -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    shape = Parts(32, 8, 128, page=64, many=0, way="crowded", joins=8)
    text = compile_offline(attention_parts(shape), CROWDED)["ptx"]
    at = text.index("atom.global.gpu.acq_rel.add")
    assert text.count("atom.global") == 1
    assert "bar.sync" in text[:at].rpartition("st.global")[2] and "bar.sync" in text[at:]


def test_only_small_programs_of_one_row_join_what_they_leave() -> None:
    def joining(shape: Parts, rows: int) -> list[str]:
        found = (way for shared in (False, True) for way in variants(shape, shared))
        return [way.name for way in found if joined(way, rows)]

    one = Parts(32, 8, 128, page=64)
    assert joining(one, 1) == ["crowded"] and joining(one, 2) == joining(one, 0) == []
    assert joining(replace(one, window=9), 1) == joining(replace(one, kv="f8e4m3"), 1) == []
    tiles = joined(Variant("crowded", replace(one, many=0, way="crowded"), CROWDED), 1)
    assert tiles is not None
    kernel = attention_parts(tiles)
    assert [op.name for op in walk(kernel.regions[0].operations)].count("tile.last") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("length, chunk", [(64, 0), (300, 64), (1024, 64), (5000, 128)])
def test_gpu(length: int, chunk: int, gpu: Any) -> None:
    shape = replace(FEW["bf16"], heads=32, kv_heads=8, head_dim=128, page=64, keys=64)
    case = tree(shape, [(0, [length])], seed=length)
    work = planned(shape, case, chunk=chunk)
    for _ in range(20):
        after = gpu(attention_parts(shape), given(shape, case, work))
        np.testing.assert_allclose(
            found_of(shape, after), expected(shape, case), rtol=0, atol=tolerance(shape)
        )
