"""What the GPU benchmarks divide by, and what they call their figures."""

from __future__ import annotations

import pytest
from weft.bench.gpu.workloads import WORKLOADS, read_bytes
from weft.bench.gpu_kernels import ASSUMED, LLAMA, Sequences, compare, ideal, within
from weft.bench.gpu_programs import label
from weft.frontend.models.presets import preset


def test_a_decode_step_of_the_8b_shape_reads_15_gb() -> None:
    config = preset("llama-8b")
    assert read_bytes(config, 1) == pytest.approx(15.0e9, rel=0.01)
    assert read_bytes(config, 64, 1.0) == read_bytes(config, 1) / 2


def test_of_experts_those_are_read_that_tokens_touch() -> None:
    config = preset("qwen3-30b-a3b")
    active = 3 * config.layers * config.width * config.ffn * config.experts_per_token
    whole = 3 * config.layers * config.width * config.ffn * config.experts
    rest = config.parameters - whole - config.vocab_size * config.width
    assert read_bytes(config, 1, 1.0) == pytest.approx(rest + active)
    assert 0.98 * (rest + whole) < read_bytes(config, 64, 1.0) < rest + whole


def test_floors_are_those_of_the_comparison() -> None:
    config, seconds = preset("llama-8b"), {"w1": 1.898, "w2": 0.441, "w3": 0.474, "w4": 0.896}
    for name, expected in seconds.items():
        assert WORKLOADS[name].floor(config, 790e12, 4.3e12) == pytest.approx(expected, rel=0.03)


def test_figures_of_other_settings_have_names_of_their_own() -> None:
    assert label("random:llama-8b", "bf16", "", 1) == ""
    assert label("random:qwen3-30b-a3b", "fp8", "fp8", 2) == "qwen3-30b-a3b_fp8_kv_fp8_tp2_"


def test_small_sizes_are_held_against_peers_apart() -> None:
    """32 x 4096 keys are 512 MiB, 16 x 1024 are 64; a size that one side lacks says nothing."""
    figures = {
        "peers_32x4096": {"flash": 200.0, "cudnn": 100.0}, "peers_16x1024": {"cudnn": 20.0},
        "decode_32x4096_page64": {"us": 110.0}, "decode_16x1024_page64": {"us": 19.0},
        "decode_1x8192_page64": {"us": 99.0}, "decode_32x4096_page16": {"us": 120.0},
        "decode_16x1024_page16": {"us": 21.0, "in_order_us": 18.0},
    }  # fmt: skip
    assert compare(figures) == {
        "decode_over_best_peer_max_page64": 1.1, "decode_over_best_peer_small_max_page64": 0.95,
        "decode_over_best_peer_max_page16": 1.2, "decode_over_best_peer_small_max_page16": 1.05,
        "decode_over_best_peer_max_page16_in_order": 0.9,
        "decode_over_best_peer_small_max_page16_in_order": 0.9,
    }  # fmt: skip


def test_roofs_of_cascades_are_those_of_the_model_they_are_held_against() -> None:
    """Its own examples on 8 B heads: microseconds at 4.3 TB/s, less the 8 of its launches."""
    for told, *cell in ((117, 256, 8192, 256), (31, 32, 8192, 512), (26, 64, 2048, 256)):
        seconds = ideal(LLAMA, Sequences(*cell), 4.3e12) + ASSUMED
        assert seconds * 1e6 == pytest.approx(told, rel=0.05)


def test_no_time_is_too_short_for_a_prediction() -> None:
    assert within([0.5, 1.0, 1.14, 1.16]) == 0.75
