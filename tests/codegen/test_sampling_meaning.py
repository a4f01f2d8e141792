"""The sampling kernel, the engine's plain sampler and the float64 oracle draw the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from weft.runtime.execution.sampler import sample_rows
from weft.tests.codegen.kernel_cases import make
from weft.tests.codegen.tvm_cases import run


@pytest.mark.parametrize("seed", range(6))
def test_plain_sampler_agrees(seed: int) -> None:
    case = make("sample", "ragged", seed)
    _, logits, allowed, *settings = case.arguments[:8]
    tensors = [torch.from_numpy(part) for part in (logits, allowed, *settings)]
    tokens, logprob, margin = sample_rows(*tensors)
    np.testing.assert_array_equal(tokens, case.expected["token"])
    np.testing.assert_allclose(logprob, case.expected["logprob"], rtol=1e-4, atol=1e-4)
    after = run(case.kernel, case.arguments)
    np.testing.assert_array_equal(after[case.position("token")], tokens)
    np.testing.assert_allclose(after[case.position("margin")], margin, rtol=1e-5)


def test_extreme_settings() -> None:
    """top_k beyond the vocabulary, tiny top_p, u next to 1, one allowed token, low temperature."""
    rows = 6
    case = make("sample", "few")
    rng = np.random.default_rng(7)
    vocab = case.arguments[1].shape[1]
    logits = rng.standard_normal((rows, vocab)).astype("f4")
    mask = np.full((rows, -(-vocab // 32)), -1, "i4")
    mask[3] = 0
    mask[3, 4] = 1 << 17
    temperature = np.array([1, 1, 1, 1, 1e-3, 50], "f4")
    top_k = np.array([10**6, 0, 0, 3, 0, 0], "i4")
    top_p = np.array([1, 1e-6, 1, 0.5, 1, 1], "f4")
    min_p = np.array([0, 0, 1, 0, 0, 0], "f4")
    u = np.array([1 - 2**-24, 0.9, 0.7, 0.99, 0.5, 0], "f4")
    outputs = [np.full(rows, -1, "i4"), np.zeros(rows, "f4"), np.zeros(rows, "f4")]
    found = run(case.kernel, [rows, logits, mask, temperature, top_k, top_p, min_p, u, *outputs])[8]
    settings = (temperature, top_k, top_p, min_p, u)
    tokens = sample_rows(*map(torch.from_numpy, (logits, mask, *settings)))[0]
    np.testing.assert_array_equal(found, tokens)
    best = logits.argmax(1)
    assert list(found[[1, 2, 4]]) == list(best[[1, 2, 4]])
    assert found[3] == 4 * 32 + 17 and found[5] == 0
