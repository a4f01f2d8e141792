"""Kernels launched before the one in front has ended: that they wait, and compute the same."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from weft.codegen.meaning.reference import run_kernel
from weft.codegen.triton.emit import emit
from weft.frontend.models.registry import load_model
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.given import NotGiven, check_given
from weft.passes.tile.regimes import Regime, lower_for_gpu
from weft.passes.tile.sparse.sparse_parts import SparseParts, sparse_parts

CHAINED = Schedule(chained=True)


def scaled(*given: str) -> Operation:
    """y = x * w of 64 elements a row."""
    b = KernelBuilder("scaled")
    b.scalar("T")
    x, w = b.buffer("x", "f32", "T", 64), b.buffer("w", "f32", 64)
    out = b.buffer("out", "f32", "T", 64)
    row, lane = b.program_id(0), b.iota(64)
    b.store(out, row, lane, b.map("a * b", b.load(x, row, lane), b.load(w, lane)))
    buffers = {"x": x, "w": w}
    return b.finish("T", requires=("T >= 0",), given=[buffers[name] for name in given])


def order(text: str, *pieces: str) -> list[str]:
    """Return pieces of a kernel's body in the order in which they stand there."""
    body = text[text.index('launch_pdl"') if 'launch_pdl"' in text else text.index("def ") :]
    return sorted(pieces, key=body.index)


WAIT, COME, LAST = "gdc_wait()", "gdc_launch_dependents()", "= last_of("
X, W, STORE = "tl.load(x", "tl.load(w", "tl.store(out"


def test_a_chained_kernel_waits_before_it_reads_and_lets_the_next_one_come() -> None:
    text = emit(scaled(), CHAINED).text
    assert order(text, STORE, W, X, COME, WAIT) == [WAIT, COME, X, W, STORE]
    assert "gdc" not in emit(scaled()).text


def test_a_kernel_that_waits_for_none_may_let_the_next_one_come() -> None:
    """As it begins; nothing of it needs to wait, as the kernel before has ended."""
    text = emit(scaled("w"), Schedule(opens=True)).text
    assert order(text, STORE, W, X, COME) == [COME, X, W, STORE] and WAIT not in text
    assert "launch_pdl" not in text


def test_attention_over_lists_finds_its_rows_and_items_while_lists_are_written() -> None:
    """What says where a row's list begins is read before the wait, how many are chosen after."""
    shape = SparseParts(4, 2, 16, page=4, few=4, keys=8, many=8, keys_many=4, slots=True)
    text = emit(sparse_parts(shape), CHAINED).text
    early, late = text[: text.index(WAIT)], text[text.index(WAIT) :]
    for name in ("item_list", "item_low", "row_page", "base", "kv_lengths", "row_query"):
        assert f"tl.load({name}" in early, name
    for name in ("counts", "chosen", "q"):
        assert f"tl.load({name} " not in early and f"tl.load({name} " in late, name


def test_what_was_given_is_read_before_the_wait_wherever_it_stood() -> None:
    text = emit(scaled("w"), CHAINED).text
    assert order(text, STORE, X, W, COME, WAIT) == [W, WAIT, COME, X, STORE]
    assert order(emit(scaled("w")).text, W, X) == [X, W]


def test_the_last_program_waits_however_many_there_are() -> None:
    """A grid's text is the host's: on a GPU -(-3 // 4) is no 1, and no program was the last."""
    kernel = scaled().with_attributes(grid=("ceildiv(T, 4)",))
    text = emit(kernel, replace(CHAINED, beside=True)).text
    assert "if (tl.program_id(0) == tl.num_programs(0) - 1):\n        tl.extra.cuda.gdc_" in text


def test_a_kernel_that_opens_lets_the_next_one_come_before_all_else() -> None:
    text = emit(scaled("w"), replace(CHAINED, opens=True)).text
    assert order(text, STORE, X, W, COME, WAIT) == [COME, W, WAIT, X, STORE]
    assert text.count(COME) == text.count(WAIT) == 1


def test_a_single_rows_weights_are_asked_for_early_and_the_next_kernel_comes_before() -> None:
    """Not a norm's: the next product would come while the one before still has programs to run."""
    one, some, *_ = lower_for_gpu(*load_model("random:tiny-dense"), max_tokens=256, max_batch=64)
    opening = {kernel["name"].name: schedule.opens for kernel, schedule in one.kernels}
    assert {name.split("_")[0] for name, opens in opening.items() if opens} == {"matvec", "qkv"}
    assert not any(opens for name, opens in opening.items() if "norm" in name)
    for kernel, schedule in one.kernels:
        if kernel["name"].name.startswith("matvec"):
            text = emit(kernel, schedule).text
            assert order(text, X, W, COME, WAIT) == [COME, W, WAIT, X]
    assert not any(schedule.opens for _, schedule in some.kernels)


def test_nothing_is_read_early_from_behind_a_loop() -> None:
    b = KernelBuilder("behind")
    b.scalar("T")
    x, w = b.buffer("x", "f32", "T"), b.buffer("w", "f32", "T")
    out, row = b.buffer("out", "f32", "T"), b.program_id(0)
    with b.loop(b.full(0, "i32"), b.full(3, "i32"), b.load(x, row), hint="turn") as loop:
        loop.yields(b.map("a + 1.0", loop.carried[0]))
    b.store(out, row, b.map("a * b", loop.results[0], b.load(w, row)))
    text = emit(b.finish("T", requires=("T >= 0",), given=(w,)), CHAINED).text
    assert order(text, STORE, W, X, WAIT) == [WAIT, X, W, STORE]


def test_nothing_is_read_early_by_what_a_kernel_counts() -> None:
    """Who comes last adds to a counter that the kernel before may still be using."""
    b = KernelBuilder("counted")
    b.scalar("T")
    w, counter = b.buffer("w", "f32", 2), b.buffer("counter", "i32", 1)
    out, row = b.buffer("out", "f32", "T"), b.program_id(0)
    last = b.last(counter, b.full(0, "i32"), axis=0)
    b.store(out, row, b.load(w, last))
    text = emit(b.finish("T", requires=("T >= 0",), given=(w,)), CHAINED).text
    assert order(text, STORE, W, LAST, WAIT) == [WAIT, LAST, W, STORE]


def test_a_kernel_of_a_gpu_computes_as_the_reference(triton_interpreter: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("f4") for shape in ((3, 64), (64,)))
    arguments = [3, x, w, np.full((3, 64), np.nan, "f4")]
    run_kernel(scaled(), *arguments)
    np.testing.assert_array_equal(arguments[3], x * w)
    np.testing.assert_array_equal(triton_interpreter.run(scaled(), arguments)[3], x * w)


@pytest.fixture(scope="module")
def regimes() -> list[Regime]:
    return lower_for_gpu(*load_model("random:tiny-moe"), max_tokens=256, max_batch=64)


def test_kernels_of_a_model_read_nothing_early_but_what_was_given(regimes: list[Regime]) -> None:
    early = set()
    for regime in regimes:
        for kernel, schedule in regime.kernels:
            before, *_ = emit(kernel, schedule).text.split(WAIT)
            if not schedule.beside:
                loaded = set(re.findall(r"tl\.load\((\w+)", before))
                assert loaded <= set(kernel.attribute("given") or ()), kernel["name"].name
                early |= loaded
    assert early >= {"w", "positions", "slots", "cos", "item_page", "merge_query"}


@pytest.mark.parametrize(
    ("kind", "buffer", "writer"),
    [("rmsnorm", "x", "@embedding"), ("qkv_rope_write", "qkv", "@matvec"),
     ("qkv_rope_write", "k_pool", "@qkv_rope_write"), ("attention_parts", "k", "@qkv_rope_write"),
     ("embedding", "ids", "what runs before it")],
)  # fmt: skip
def test_what_a_step_writes_cannot_be_given(
    regimes: list[Regime], kind: str, buffer: str, writer: str
) -> None:
    regime = regimes[0]
    kernels = [kernel for kernel, _ in regime.kernels]
    check_given(regime.function, kernels)
    planted = [
        kernel.with_attributes(given=[*(kernel.attribute("given") or ()), buffer])
        if kernel["name"].name.startswith(kind) else kernel for kernel in kernels
    ]  # fmt: skip
    with pytest.raises(NotGiven, match=rf"reads {buffer} before it waits .*{writer}"):
        check_given(regime.function, planted)


def test_a_kernel_of_a_way_cannot_be_given_what_a_step_writes(regimes: list[Regime]) -> None:
    """One that a call runs for some lists only, and by no other name."""
    regime, call = next((regime, call) for regime in regimes for call in _calls(regime)
                        if call.attribute("ways"))  # fmt: skip
    usual = {symbol.name for key in ("kernel", "few") if (symbol := call.attribute(key))}
    way = next(s.name for _, s in call["ways"].items if s.name not in usual)
    planted = [
        kernel.with_attributes(given=[*(kernel.attribute("given") or ()), "k"])
        if kernel["name"].name == way else kernel for kernel, _ in regime.kernels
    ]  # fmt: skip
    with pytest.raises(NotGiven, match=rf"@?{way}.* reads k before it waits"):
        check_given(regime.function, planted)


def _calls(regime: Regime) -> list[Operation]:
    return [op for op in regime.function.regions[0].operations if op.name == "graph.call"]
