"""Kernels launched before the one in front has ended: that they wait, and what is steady."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from weft.codegen.emit_triton import emit
from weft.codegen.reference import run_kernel
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module, Operation, Term
from weft.ir.diagnostics import WeftError
from weft.ir.model import ModelConfig, Rope
from weft.ir.schedule import Schedule
from weft.ir.verifier import verify
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.regimes import lower_for_gpu


def scaled(steady: tuple[str, ...] = ("w",), written: str = "out") -> Operation:
    """y = x * w of 64 elements a row, or into w instead."""
    b = KernelBuilder("scaled")
    b.scalar("T")
    buffers = {"x": b.buffer("x", "f32", "T", 64), "w": b.buffer("w", "f32", 64),
               "out": b.buffer("out", "f32", "T", 64)}  # fmt: skip
    row, lane = b.program_id(0), b.iota(64)
    x = b.load(buffers["x"], row, lane)
    w = b.load(buffers["w"], lane)
    place = (lane,) if written == "w" else (row, lane)
    b.store(buffers[written], *place, b.map("a * b", x, w))
    return b.finish("T", requires=("T >= 0",), steady=steady)


def order(kernel: Operation, *pieces: str) -> list[str]:
    """Return some pieces in the order in which the kernel's text has them first."""
    text = emit(kernel, Schedule(chained=True)).text
    body = text[text.index(f"def {kernel['name'].name}(") :]
    return sorted(pieces, key=body.index)


def test_a_chained_kernel_waits_before_it_reads_and_lets_the_next_one_come() -> None:
    pieces = ["gdc_wait()", "gdc_launch_dependents()", "tl.load(x", "tl.load(w"]
    assert order(scaled(), *pieces) == pieces
    assert "gdc" not in emit(scaled()).text


def test_a_chained_kernel_computes_as_before(triton_interpreter: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype("f4") for shape in ((3, 64), (64,)))
    arguments = [3, x, w, np.full((3, 64), np.nan, "f4")]
    run_kernel(scaled(), *arguments)
    np.testing.assert_array_equal(arguments[3], x * w)
    np.testing.assert_array_equal(triton_interpreter.run(scaled(), arguments)[3], x * w)


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [(scaled(written="w"), "writes what it calls steady: w"), (scaled(("y",)), "no buffer: y")],
)
def test_what_is_steady_is_a_buffer_and_not_written(kernel: Operation, problem: str) -> None:
    with pytest.raises(WeftError, match=problem):
        verify(Module((kernel,)), ("tile",))


def bound(call: Operation, kernel: Operation, names: Any) -> Iterator[tuple[Any, ...]]:
    """Yield what a call gives for some of a kernel's arguments."""
    given = {v.name: t for v, t in zip(kernel.regions[0].arguments, call["arguments"], strict=True)}
    for name in names or ():
        term: Term = given[name]
        values = {"in": call.operands, "out": call.results}.get(term.name)
        yield (values[term.parameters[0]].name,) if values else (term.name, *term.parameters)


def written_steady(module: Module) -> set[tuple[Any, ...]]:
    """Return what some kernel of a step takes as steady, and another one writes."""
    kernels = {op["name"].name: op for op in module.operations if op.name == "tile.kernel"}
    body = module.symbol("step").regions[0].operations
    calls = [(op, kernels[op["kernel"].name]) for op in body if op.name == "graph.call"]
    found = [
        {place for call, kernel in calls for place in bound(call, kernel, kernel.attribute(names))}
        for names in ("writes", "steady")
    ]
    assert all(found)
    return found[0] & found[1]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_no_kernel_of_a_step_writes_what_another_takes_as_steady(architecture: str) -> None:
    shape = ModelConfig(architecture, 61, 64, 2, 4, 2, 16, 48, 512, Rope(1e4), windows=(0, 9),
                        head_norms=architecture == "Qwen3ForCausalLM")  # fmt: skip
    for regime in lower_for_gpu(shape, build_graph(shape), max_tokens=64, max_batch=8):
        assert not written_steady(regime.module)


def test_a_step_that_writes_what_is_steady_is_found() -> None:
    shape = ModelConfig("LlamaForCausalLM", 61, 64, 2, 4, 2, 16, 48, 512, Rope(1e4), windows=(0, 0))
    module = lower_for_gpu(shape, build_graph(shape), max_tokens=64, max_batch=8)[0].module
    changed = [op.with_attributes(steady=["x"]) if op["name"].name.startswith("matvec") else op
               for op in module.operations if op.name == "tile.kernel"]  # fmt: skip
    assert written_steady(Module((*changed, module.symbol("step"))))
