"""The head of the GPU bench's random model: what it says is words, drawn at any temperature."""

from __future__ import annotations

import pytest
import torch
from weft.bench import programs_gpu
from weft.runtime.execution.weights import RandomTensors


def test_a_wordy_head_says_words_alone():
    words = (3, 5)
    wordy, plain = programs_gpu.Wordy(0, "cpu", words), RandomTensors(0, "cpu")
    head = wordy.read("lm_head.weight", (10, 64))
    ratio = (head / plain.read("lm_head.weight", (10, 64)))[:, 0].tolist()
    assert ratio == pytest.approx(
        [programs_gpu.LOUD if row in words else programs_gpu.QUIET for row in range(10)]
    )
    assert torch.equal(wordy.read("other", (4, 4)), plain.read("other", (4, 4)))


def test_samples_of_a_wordy_head_are_words_too():
    words = tuple(range(0, 1 << 17, 60))
    head = programs_gpu.Wordy(0, "cpu", words).read("lm_head.weight", (1 << 17, 32))
    hidden = torch.nn.functional.normalize(torch.ones(32), dim=0) * 32**0.5
    drawn = torch.softmax(head @ hidden / 0.9, 0)
    assert drawn[list(words)].sum() > 0.95
