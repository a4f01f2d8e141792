"""One draw: uniforms by counter, the filters' exact meaning, log-probability and margin."""

from __future__ import annotations

import numpy as np
import torch
from weft.runtime.execution.sampler import sample_rows, site_key, uniforms


def draw(logits, u=0.0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, mask=None):
    def one(value, dtype=torch.float32):
        return torch.tensor([value], dtype=dtype)

    words = None if mask is None else torch.tensor([[sum(1 << i for i in mask)]], dtype=torch.int32)
    token, logprob, margin = sample_rows(
        torch.tensor([logits]), words, one(temperature), one(top_k, torch.int32), one(top_p),
        one(min_p), one(u),
    )  # fmt: skip
    return int(token), float(logprob), float(margin)


def reachable(logits, **filters):
    return {draw(logits, u=step / 200, **filters)[0] for step in range(200)}


def test_temperature_zero_takes_the_first_of_the_largest():
    assert draw([0.0, 3.0, 3.0, 1.0], temperature=0.0)[0] == 1


def test_a_mask_forbids_but_the_logprob_is_unmasked():
    token, logprob, margin = draw([5.0, 1.0, 0.0], temperature=0.0, mask=[1, 2])
    assert token == 1 and margin == 1.0
    assert np.isclose(logprob, torch.log_softmax(torch.tensor([5.0, 1.0, 0.0]), 0)[1])


def test_filters_keep_what_they_say():
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32)).tolist()
    assert reachable(logits) == {0, 1, 2, 3}
    assert reachable(logits, top_k=2) == {0, 1}
    assert reachable(logits, top_p=0.65) == {0, 1}
    assert reachable(logits, top_p=0.75) == {0, 1, 2}
    assert reachable(logits, min_p=0.45) == {0, 1, 2}
    assert reachable([1.0, 1.0, 0.0], top_k=1) == {0, 1}  # ties stay


def test_the_lowest_temperatures_take_the_largest():
    assert all(draw([1.0, 9.0, 3.0], 0.9, temperature)[0] == 1 for temperature in (1e-30, 1e-44))


def test_draws_follow_the_probabilities_in_vocabulary_order():
    logits = np.log(np.array([0.25, 0.5, 0.25], np.float32)).tolist()
    assert [draw(logits, u=u)[0] for u in (0.0, 0.24, 0.26, 0.74, 0.76, 0.999)] == [
        0, 0, 1, 1, 2, 2,
    ]  # fmt: skip


def test_uniforms_depend_on_key_and_position_alone_and_spread():
    keys = np.array([site_key(1, (0,), "gen", n) for n in range(2000)], np.uint64)
    values = uniforms(keys, np.zeros(2000, np.int32))
    again = uniforms(keys[5:6], np.zeros(1, np.int32))
    assert again[0] == values[5] and 0 <= values.min() and values.max() < 1
    counts, _ = np.histogram(values, 10, (0, 1))
    assert counts.min() > 140 and counts.max() < 260
    positions = uniforms(np.repeat(keys[:1], 2000), np.arange(2000))
    assert len(set(positions.tolist())) > 1990


def test_site_keys_tell_instances_apart():
    sites = {
        site_key(seed, (row, ("f", 0, branch)), name, occurrence)
        for seed in range(2) for row in range(3) for branch in range(3) for name in "ab"
        for occurrence in range(2)
    }  # fmt: skip
    assert len(sites) == 2 * 3 * 3 * 2 * 2
