"""Draws in parts: what parts of a vocabulary find is what one walk through it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from weft.codegen.bounds.prove import prove_bounds
from weft.codegen.meaning.reference import run_kernel
from weft.ir.constraints.vocabulary_parts import PART_WORDS, part_count, part_words
from weft.ir.core import Operation, walk
from weft.passes.tile.gpu_schedules import gpu_step_kernels
from weft.passes.tile.rows.sampling_parts import argmax_join, survey_parts
from weft.passes.tile.rows.sampling_rounds import count_round, kept_parts, mass_round, sample_join
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.gpu.sampled_draws import SampledDraws
from weft.tests.codegen.gpu_run import on_gpu
from weft.tests.codegen.kernel_cases import poison
from weft.tests.codegen.tvm_cases import run
from weft.tests.each_time import each_time

SAMPLED = ("survey_parts", "count_round", "mass_round", "kept_parts", "sample_join")
Run = Callable[[Operation, list[Any]], list[Any]]


def referred(kernel: Operation, arguments: list[Any]) -> list[Any]:
    """Return the arguments after the reference interpreter ran a kernel."""
    copied = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    run_kernel(kernel, *copied)
    return copied


RUNS: dict[str, Run] = {"reference": referred, "compiled": run}


def drawn_greedily(run: Run, logits: np.ndarray, mask: np.ndarray, words: int) -> list[np.ndarray]:
    """Return token, logprob and margin of rows, drawn in parts."""
    rows, vocab = logits.shape
    parts = part_count(vocab, words)
    found = [poison(rows, parts, dtype="i4"), *(poison(rows, parts) for _ in range(4))]
    found = run(survey_parts(vocab, words), [rows, logits, mask, *found])[3:]
    outs = [poison(rows, dtype="i4"), poison(rows), poison(rows)]
    return run(argmax_join(vocab, words), [rows, logits, *found, *outs])[-3:]


def rows_of(seed: int, rows: int, vocab: int, share: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Return rounded logits, among which are ties, and a mask that allows one token at least."""
    rng = np.random.default_rng(seed)
    logits = np.round(3 * rng.standard_normal((rows, vocab)), 1).astype("f4")
    bits = rng.random((rows, -(-vocab // 32), 32)) < share
    if rows:
        bits[np.arange(rows), 0, rng.integers(0, min(32, vocab), rows)] = True
    packed = np.packbits(bits, axis=2, bitorder="little")
    mask = np.ascontiguousarray(packed).view("<i4").reshape(packed.shape[:2])
    return logits, mask


def agree(found: list[np.ndarray], logits: np.ndarray, mask: np.ndarray) -> None:
    """Hold a greedy draw against the plain sampler."""
    rows = len(logits)
    assert [part.shape for part in found] == [(rows,)] * 3
    if not rows:
        return
    cold = [torch.zeros(rows) for _ in range(5)]
    wanted = sample_rows(torch.from_numpy(logits), torch.from_numpy(mask), *cold)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[2], wanted[2], rtol=1e-4, atol=1e-4)


DRAWN = [(1, 333, 2), (3, 333, 4), (13, 333, 8), (0, 333, 2), (2, 1000, 4), (3, 64, 2), (2, 70, 1),
         (4, 20, 4)]  # fmt: skip
"""Rows, words of a vocabulary, and words of 32 bits a part."""


@pytest.mark.parametrize(
    ("name", "rows", "vocab", "words"),
    each_time(
        [(name, *drawn) for name in RUNS for drawn in DRAWN],
        *(("reference", *drawn) for drawn in DRAWN),
        *(("compiled", *drawn) for drawn in ((1, 333, 2), (0, 333, 2), (2, 70, 1), (4, 20, 4))),
    ),
)
def test_greedy_draws(name: str, rows: int, vocab: int, words: int) -> None:
    logits, mask = rows_of(vocab + rows, rows, vocab)
    agree(drawn_greedily(RUNS[name], logits, mask, words), logits, mask)


@pytest.mark.parametrize("name", RUNS)
def test_greedy_draws_of_odd_rows(name: str) -> None:
    """All equal, all -inf but one, one allowed, ties across parts, the last token."""
    logits, mask = rows_of(3, 5, 333)
    mask[:] = -1
    logits[0] = 1.5
    logits[1], logits[1, 300] = -np.inf, 2.0
    mask[2], mask[2, 7] = 0, 1 << 5
    logits[3, [70, 200, 320]] = 50.0
    logits[4, 332] = 60.0
    found = drawn_greedily(RUNS[name], logits, mask, 2)
    assert list(found[0]) == [0, 300, 7 * 32 + 5, 70, 332]
    assert found[2][0] == 0 and found[2][3] == 0
    finite = np.array([0, 2, 3, 4])
    agree([part[finite] for part in found], logits[finite], mask[finite])
    assert abs(found[1][1]) < 1e-6  # all the mass is its own


def test_interpreted_by_triton(triton_interpreter) -> None:
    logits, mask = rows_of(11, 3, 333)
    agree(drawn_greedily(triton_interpreter.run, logits, mask, 4), logits, mask)


def sampled(
    run: Run, logits: np.ndarray, mask: np.ndarray, settings: list[np.ndarray]
) -> list[np.ndarray]:
    """Return token, logprob and margin of rows, drawn by the kernels as they are launched."""
    rows, vocab = logits.shape
    words = part_words(vocab)

    def launcher(kernel: Operation) -> Callable[..., None]:
        def launch(*given: Any) -> None:
            arguments = [a.numpy() if isinstance(a, torch.Tensor) else a for a in given]
            for place, found in zip(given, run(kernel, arguments), strict=True):
                if isinstance(place, torch.Tensor):
                    place.copy_(torch.from_numpy(np.asarray(found)))

        return launch

    kernels: Any = {
        f"{build.__name__}_{vocab}": SimpleNamespace(launch=launcher(build(vocab, words)))
        for build in (survey_parts, count_round, mass_round, kept_parts, sample_join)
    }
    draws = SampledDraws(kernels, vocab, rows + 2, torch.device("cpu"))
    keys = (each for search in (draws._kth, draws._nucleus) for turn in search for each in turn)
    for held in (*draws._found, *keys, *draws._sums):
        held.fill_(float("nan") if held.is_floating_point() else -77)
    outs = [torch.from_numpy(each)
            for each in (poison(rows, dtype="i4"), poison(rows), poison(rows))]  # fmt: skip
    sent = [torch.from_numpy(each) for each in settings]
    counted, weighed = bool(settings[1].any()), bool((settings[2] < 1).any())
    draws(rows, torch.from_numpy(logits), torch.from_numpy(mask), sent, counted, weighed, outs)
    return [each.numpy() for each in outs]


def settings_of(seed: int, rows: int, top_k: bool = True, top_p: bool = True) -> list[np.ndarray]:
    """Return random temperature, top_k, top_p, min_p and u; without `top_k` or `top_p` off."""
    rng = np.random.default_rng(seed)
    return [
        rng.choice([0.0, 0.5, 1.0, 1.7], rows).astype("f4"),
        rng.choice([0, 1, 7, 400] if top_k else [0], rows).astype("i4"),
        rng.choice([1.0, 0.9, 0.3, 0.0] if top_p else [1.0], rows).astype("f4"),
        rng.choice([0.0, 0.02, 0.3], rows).astype("f4"), rng.random(rows).astype("f4"),
    ]  # fmt: skip


def drawn_alike(
    run: Run, logits: np.ndarray, mask: np.ndarray, settings: list[np.ndarray]
) -> None:  # fmt: skip
    """Hold draws against the plain sampler's."""
    found = sampled(run, logits, mask, settings)
    tensors = [torch.from_numpy(part) for part in (logits, mask, *settings)]
    for part, wanted in zip(found, sample_rows(*tensors), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocab", each_time([333, 1000, 4097, 100], 333, 4097))
@pytest.mark.parametrize("seed", range(3))
def test_sampled_draws(vocab: int, seed: int) -> None:
    logits, mask = rows_of(seed, 13, vocab)
    drawn_alike(run, logits, mask, settings_of(seed, 13))


@pytest.mark.parametrize("top_k, top_p", [(False, False), (True, False), (False, True)])
def test_searches_that_no_row_needs_are_left_out(top_k: bool, top_p: bool) -> None:
    logits, mask = rows_of(5, 6, 333)
    drawn_alike(run, logits, mask, settings_of(8, 6, top_k, top_p))


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_sampled_draws_are_interpreted(name: str, triton_interpreter) -> None:
    logits, mask = rows_of(9, 2, 333)
    settings = settings_of(4, 2)
    settings[0][:], settings[1][0], settings[2][:] = 0.8, 30, 0.7
    drawn_alike(triton_interpreter.run if name == "triton" else referred, logits, mask, settings)


def test_extreme_settings_in_parts() -> None:
    """top_k beyond the vocabulary, tiny top_p, u next to 1, one allowed token, -inf logits."""
    logits, mask = rows_of(7, 7, 1000)
    logits += np.random.default_rng(1).random(logits.shape).astype("f4")  # no ties
    mask[:] = -1
    mask[3] = 0
    mask[3, 20] = 1 << 17
    logits[6], logits[6, [3, 700]] = -np.inf, 1.0
    settings = [
        np.array([1, 1, 1, 1, 1e-3, 50, 1], "f4"), np.array([10**6, 0, 0, 3, 0, 0, 0], "i4"),
        np.array([1, 1e-6, 1, 0.5, 1, 1, 0.9], "f4"), np.array([0, 0, 1, 0, 0, 0, 0], "f4"),
        np.array([1 - 2**-24, 0.9, 0.7, 0.99, 0.5, 0, 0.75], "f4"),
    ]  # fmt: skip
    token = sampled(run, logits, mask, settings)[0]
    best = logits.argmax(1)
    assert list(token[[1, 2, 4]]) == list(best[[1, 2, 4]])
    assert token[3] == 20 * 32 + 17 and token[5] == 0 and token[6] == 700
    drawn_alike(run, logits[:6], mask[:6], [each[:6] for each in settings])


def test_top_p_of_zero_keeps_the_largest_and_its_equals() -> None:
    logits, mask = rows_of(5, 3, 333)
    logits[1, [70, 300]], logits[2] = 40.0, 1.5
    mask[:] = -1
    settings = [np.ones(3, "f4"), np.zeros(3, "i4"), np.zeros(3, "f4"), np.zeros(3, "f4"),
                np.array([0.9, 0.6, 0.5], "f4")]  # fmt: skip
    assert list(sampled(run, logits, mask, settings)[0]) == [logits[0].argmax(), 300, 166]
    drawn_alike(run, logits, mask, settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_rows_without_a_choice_draw_a_token_that_there_is(temperature: float, top_p: float) -> None:
    """Nothing allowed, all -inf, all NaN, NaN among numbers: what comes behind reads its row."""
    logits, mask = rows_of(6, 4, 333)
    mask[0], mask[1:] = 0, -1
    logits[1], logits[2], logits[3, 40] = -np.inf, np.nan, np.nan
    settings = [np.full(4, temperature, "f4"), np.array([0, 5, 0, 5], "i4"),
                np.full(4, top_p, "f4"), np.zeros(4, "f4"), np.full(4, 0.99, "f4")]  # fmt: skip
    for found in (sampled(run, logits, mask, settings), drawn_greedily(run, logits, mask, 2)):
        assert ((found[0] >= 0) & (found[0] < 333)).all()


@pytest.mark.parametrize("build", [count_round, mass_round, kept_parts, sample_join])
def test_rounds_compile_for_hopper(build: Callable[[int, int], Operation]) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    assert ".target sm_90" in compile_offline(build(333, 4))["ptx"]


@pytest.mark.parametrize("build", [
    survey_parts, argmax_join, count_round, mass_round, kept_parts, sample_join,
])  # fmt: skip
@pytest.mark.parametrize("vocab", [128256, 151936, 50257, 333])
def test_bounds_are_proven(build: Callable[[int, int], Operation], vocab: int) -> None:
    assert prove_bounds(build(vocab, part_words(vocab))).ok


def test_no_kernel_around_a_step_reads_what_it_writes() -> None:
    """Each thread of a program reads a number when it comes to it: a new one that another thread
    has already put there is as likely as the old."""
    for kernel, _ in gpu_step_kernels(128256):
        operations = list(walk(kernel.regions[0].operations))
        read = {each.operands[0].name for each in operations if each.name == "tile.load"}
        written = {each.operands[0].name for each in operations if each.name == "tile.store"}
        assert written == set(kernel["writes"])
        places = {"copy_pages": {"pool"}, "copy_slots": {"k", "v"}}  # what is copied to is not read
        assert read & written == places.get(kernel["name"].name, set()), kernel["name"].name


def test_parts_of_vocabularies() -> None:
    assert part_words(128256) == PART_WORDS and part_count(128256, PART_WORDS) == 32
    for vocab in (1, 31, 100, 333, 4096, 32000, 50257, 151936, 262144):
        words = part_words(vocab)
        assert words & (words - 1) == 0
        assert (part_count(vocab, words) - 1) * words * 32 < vocab
        assert part_count(vocab, words) * words * 32 >= vocab


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_draws_on_a_gpu(tmp_path: Path) -> None:
    def device(kernel: Operation, arguments: list[Any]) -> list[Any]:
        return on_gpu(kernel, arguments, tmp_path)

    for rows in (1, 5):
        logits, mask = rows_of(rows, rows, 5000)
        agree(drawn_greedily(device, logits, mask, 8), logits, mask)
        drawn_alike(device, logits, mask, settings_of(rows, rows))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_draws_of_many_rows_on_a_gpu(tmp_path: Path) -> None:
    """More programs than a GPU holds at once, whose threads run apart, draw what the oracle does,
    each time that they are launched and replayed."""
    from weft.codegen.build_cuda import load_kernels
    from weft.runtime.devices.graphs import CudaGraphs

    rows, vocab, device = 96, 128256, torch.device("cuda")
    wanted = [pair for pair in gpu_step_kernels(vocab)
              if pair[0]["name"].name.startswith(SAMPLED)]  # fmt: skip
    draws = SampledDraws(load_kernels(wanted, tmp_path), vocab, rows, device)
    rng = np.random.default_rng(3)
    logits = torch.from_numpy((3 * rng.standard_normal((rows, vocab))).astype("f4"))
    mask = torch.full((rows, -(-vocab // 32)), -1, dtype=torch.int32)
    settings = [torch.full((rows,), 0.8), torch.full((rows,), 50, dtype=torch.int32),
                torch.full((rows,), 0.9), torch.zeros(rows),
                torch.from_numpy(rng.random(rows).astype("f4"))]  # fmt: skip
    token, logprob, _ = sample_rows(logits, mask, *settings)
    given, held, sent = logits.cuda(), mask.cuda(), [each.cuda() for each in settings]
    out = [torch.zeros(rows, dtype=torch.int32).cuda(), *torch.zeros(2, rows).cuda()]

    def draw() -> None:
        draws(rows, given, held, sent, True, True, out)

    replay = CudaGraphs().record(draw)
    for launch in (draw, replay) * 10:
        out[0].fill_(-1)
        launch()
        np.testing.assert_array_equal(out[0].cpu(), token)
        np.testing.assert_allclose(out[1].cpu(), logprob, atol=1e-4)
