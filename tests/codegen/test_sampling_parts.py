"""Draws in parts: what parts of a vocabulary find is what one walk through it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import poison
from tvm_cases import run
from weft.codegen.bounds import prove_bounds
from weft.codegen.reference import run_kernel
from weft.ir.core import Operation
from weft.ir.vocabulary_parts import PART_WORDS, part_count, part_words
from weft.passes.tile.sampling_parts import argmax_join, survey_parts
from weft.runtime.sampler import sample_rows

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


@pytest.mark.parametrize("rows, vocab, words", [
    (1, 333, 2), (3, 333, 4), (13, 333, 8), (0, 333, 2), (2, 1000, 4), (3, 64, 2), (2, 70, 1),
    (4, 20, 4),
])  # fmt: skip
@pytest.mark.parametrize("name", RUNS)
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


@pytest.mark.parametrize("build", [survey_parts, argmax_join])
@pytest.mark.parametrize("vocab", [128256, 151936, 50257, 333])
def test_bounds_are_proven(build: Callable[[int, int], Operation], vocab: int) -> None:
    assert prove_bounds(build(vocab, part_words(vocab))).ok


def test_parts_of_vocabularies() -> None:
    assert part_words(128256) == PART_WORDS and part_count(128256, PART_WORDS) == 32
    for vocab in (1, 31, 100, 333, 4096, 32000, 50257, 151936, 262144):
        words = part_words(vocab)
        assert words & (words - 1) == 0
        assert (part_count(vocab, words) - 1) * words * 32 < vocab
        assert part_count(vocab, words) * words * 32 >= vocab
