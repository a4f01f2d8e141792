"""What the launches of sparse attention move and take, as `weft kernels` says it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from weft.cost_model.binding import decode, prefill
from weft.cost_model.hardware_file import load
from weft.cost_model.sparse_attention import sparse_parts
from weft.cost_model.sparse_bytes import AttentionShape
from weft.frontend.models.presets import preset
from weft.frontend.models.registry import build_graph
from weft.ir.sparse.policy import parse_policy
from weft.options import Options
from weft.passes.tile.attention.ways import LONG, LONG_PROMPTS
from weft.passes.tile.regimes import Sparse, lower_for_gpu, lower_model, merge_kernels
from weft.runtime.execution.library import nothing
from weft.tests.codegen.test_autotune import Clocked
from weft.tuning.lines import KernelLine, calls_of, kernel_lines

CONTEXT = 1 << 17
POLICY = "sparse(ratio=1/16, channels=32, min_context=0)"


def lines_of(policy: str, target: str = "cuda", batch: int = 8, offload: bool = False) -> Any:
    """Return the lines of a decode step of one layer of an 8 B shape, by their kernels' names."""
    hardware = "h200" if target == "cuda" else "cpu-generic"
    regime, schedules = decode_of(policy, target, hardware, offload)
    made: Any = SimpleNamespace(
        executor=Clocked(regime, lambda name, schedule: 1.0), regimes=[regime],
        schedules=schedules, options=Options(target=target, weights="bf16", kv_memory=1),
    )  # fmt: skip
    step: Any = None
    lines = kernel_lines(made, step, decode(batch, CONTEXT), load(hardware).level(), measure=False)
    return {line.kernel: line for line in lines}


@cache
def decode_of(policy: str, target: str, hardware: str, offload: bool) -> Any:
    """Return the regime of sparse decode and its kernels' schedules."""
    config = replace(preset("llama-8b"), layers=1, windows=(0,))
    attention = Sparse(policy, hardware, always=True, offload=offload, ahead=False)
    lower = lower_for_gpu if target == "cuda" else lower_model
    formats = {"activations": "bf16", "kv": "bf16"} if target == "cuda" else {}
    regimes = lower(config, build_graph(config), weights="bf16", attention=attention,
                    max_tokens=64, max_batch=8, **formats)  # fmt: skip
    regime = next(regime for regime in regimes if regime.sparse)
    return regime, merge_kernels([regime])


def starting(lines: dict[str, KernelLine], begin: str) -> list[KernelLine]:
    return [line for name, line in lines.items() if name.startswith(begin)]


def test_launches_of_a_gpu_are_predicted_as_they_were_measured() -> None:
    """Each alone on an H200, one layer, 128 K tokens, 8 rows (docs/sparse_attention.md)."""
    lines = lines_of(POLICY)
    measured = {"step_counts": 6.5, "select_bins": 8.2, "sparse_parts": 69.8, "word_scores": 36.2}
    for begin, seconds in measured.items():
        found = max(line.predicted for line in starting(lines, begin))
        assert found == pytest.approx(1e-6 * seconds, rel=0.2), begin
    (few,), (many,) = starting(lines, "attended_words"), starting(lines, "word_scores")
    labels, scored = 8 * CONTEXT * 8 * 16, 8 * CONTEXT * 8
    assert "_few" in few.kernel and few.work.bytes == 0
    assert many.work.bytes == labels + scored
    (attention,) = starting(lines, "sparse_parts")
    assert attention.work.kv_read_bytes == 8 * CONTEXT // 16 * 2 * 8 * 128 * 2


APART = "word_scores", "step_counts", "select_bins", "sparse_parts"
"""Launches of many rows."""


@pytest.mark.parametrize("offload", [False, True])
def test_one_launch_of_few_rows_does_what_several_do_of_more(offload: bool) -> None:
    """The same bytes, and the sum of what each is predicted to take, launches aside; it attends to
    what it chose where nothing must be fetched before."""
    lines, more = (lines_of(POLICY, batch=rows, offload=offload) for rows in (1, 8))
    (whole,) = starting(lines, "chosen_words" if offload else "attended_words")
    apart = [line for begin in APART[: 4 - offload] for line in starting(more, begin)]
    total = sum(line.work.bytes for line in apart)
    assert whole.work.bytes == pytest.approx(total / 8, rel=1e-6)
    assert whole.predicted < sum(line.predicted for line in apart) / 4
    idle = [line for begin in APART for line in starting(lines, begin)]
    assert all(line.work.bytes == 0 for line in idle)


def test_a_tail_takes_longer_than_its_bytes() -> None:
    plain, tail = (lines_of(policy) for policy in (POLICY, POLICY[:-1] + ", tail=mean)"))
    for begin, least in (("word_scores", 20e-6), ("sparse_parts", 8e-6)):
        before, after = (max(line.predicted for line in starting(lines, begin))
                         for lines in (plain, tail))  # fmt: skip
        assert after - before > least
    (sums,) = starting(tail, "value_sums")
    assert sums.work.bytes > 0


def test_parts_are_what_the_decision_for_sparse_attention_counts() -> None:
    lines = lines_of(POLICY, target="cpu", batch=1)
    level = load("cpu-generic").level()
    policy = parse_policy(POLICY)
    assert policy is not None
    parts = sparse_parts(AttentionShape(32, 8, 128, "f32"), level, policy, CONTEXT)
    start = level.launch_cost("parallel").median
    for begin, part in (
        ("label_scores", "scores"),
        ("select", "lists"),
        ("gathered", "attention"),
    ):
        (line,) = starting(lines, begin)
        assert line.predicted == pytest.approx(parts[part] + start) and line.work.bytes


def test_attention_over_fetched_keys_reads_what_was_chosen() -> None:
    (near,) = starting(lines_of(POLICY), "sparse_parts")
    (far,) = starting(lines_of(POLICY, offload=True), "held_parts")
    assert far.work.kv_read_bytes == near.work.kv_read_bytes


def test_a_launch_that_stands_in_for_another_does_its_work_and_idle_ones_are_no_lines() -> None:
    """Of one row: small programs that join what they leave, or attention and a join."""
    config = replace(preset("llama-8b"), layers=1, windows=(0,))
    regimes = lower_for_gpu(config, build_graph(config), weights="bf16", max_tokens=64, max_batch=8)
    (regime,) = (each for each in regimes if each.rows == 1)
    found = {}
    for way in ("", "crowded"):
        executor = Clocked(regime, lambda name, schedule, before: 1.0)
        body = regime.function.regions[0].operations
        calls = [op for op in body if op.name in {"graph.call", "graph.library"}]
        executor._launches = [
            each if way in (call.attribute("only") or (way,)) else each.by(nothing)
            for call, each in zip(calls, executor._launches, strict=True)
        ]
        made: Any = SimpleNamespace(
            executor=executor, regimes=regimes, schedules=merge_kernels(regimes),
            options=Options(target="cuda", weights="bf16", kv_memory=1),
        )  # fmt: skip
        step: Any = None
        lines = kernel_lines(made, step, decode(1, CONTEXT), load("h200").level(), measure=False)
        found[way] = [line for line in lines if line.kernel.startswith("attention")]
    (parts, join), (whole,) = found[""], found["crowded"]
    assert whole.kernel.endswith("_joined") and "join" in join.kernel
    assert whole.work == parts.work and parts.work.kv_read_bytes and not join.work.kv_read_bytes


def test_a_kernel_that_runs_instead_of_the_usual_one_is_named_with_its_schedule() -> None:
    config = replace(preset("llama-8b"), layers=1, windows=(0,))
    regimes = lower_for_gpu(config, build_graph(config), weights="bf16", max_tokens=64, max_batch=8)
    (regime,) = (each for each in regimes if not each.rows)
    executor = Clocked(regime, lambda name, schedule, before: 1.0)
    calls = {op["kernel"].name: op for op in calls_of(regime) if op.attribute("ways")}
    prompts = next(name for name in calls if name.startswith("attention_prompts"))
    long = dict(calls[prompts]["ways"].items)[LONG].name
    executor._launches = [
        replace(each, instead=long) if each.kernel == prompts else each
        for each in executor._launches
    ]
    made: Any = SimpleNamespace(
        executor=executor, regimes=regimes, schedules=merge_kernels(regimes),
        options=Options(target="cuda", weights="bf16", kv_memory=1),
    )  # fmt: skip
    step: Any = None
    lines = kernel_lines(made, step, prefill(8192), load("h200").level(), measure=False)
    told = {line.kernel: line for line in lines}
    assert f"specialised={LONG_PROMPTS.specialised}" in told[long].schedule and prompts not in told
    work = told[long].work  # by tensor cores, not at the rate of f32: 1.01 ms was measured
    assert (work.dtype, work.dense) == ("bf16", True)
    assert told[long].roof == pytest.approx(555.2e9 / 774e12, rel=1e-3)
