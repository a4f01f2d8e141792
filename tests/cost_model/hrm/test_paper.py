"""The published form of the model: its printed sample to every digit, and policies for an H200."""

from dataclasses import replace

import pytest
from weft.cost_model.hrm.paper import GIB, L4, PaperMachine, search, solve
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.frontend.models.presets import preset

MIXTRAL = MoeShape.of(preset("mixtral-8x7b"))


def test_the_published_sample_to_every_printed_digit() -> None:
    found = search(MIXTRAL, Workload(77, 32), L4)
    assert found is not None
    assert (found.micro_batch, found.micro_batches, found.batch) == (324, 14, 4536)
    assert f"{found.resident:.6f}" == "0.055885"
    assert f"{found.layer_s * MIXTRAL.layers:.3f}" == "4.957"
    assert f"{found.throughput:.2f}" == "944.66"
    assert found.bound == "link"


H200 = PaperMachine(
    16 * GIB, 128 * GIB, 52e9, 4.2e12, 100e9, 600e12, 1e12,
    gpu_share=0.92, host_share=0.92, residual_on_gpu=False,
)  # fmt: skip


@pytest.mark.parametrize(
    "gpu, layers, lengths, policy, resident, step_s, throughput",
    [
        (16, 32, (77, 32), (48, 53), 0.077, 1.60, 1640),
        (16, 32, (418, 128), (8, 63), 0.078, 1.60, 318),
        (16, 32, (1693, 64), (8, 17), 0.046, 1.66, 83),
        (24, 32, (418, 128), (16, 38), 0.161, 1.46, 421),
        (16, 16, (512, 64), (32, 60), 0.113, 0.77, 2535),
        (24, 16, (512, 64), (32, 50), 0.299, 0.61, 2673),
    ],
)
def test_policies_for_a_capped_h200(
    gpu, layers, lengths, policy, resident, step_s, throughput
) -> None:
    """Within the printed digits, at the printed (micro_batch, n_ub)."""
    shape = replace(MIXTRAL, layers=layers)
    found = solve(shape, Workload(*lengths), replace(H200, gpu_memory=gpu * GIB), *policy)
    assert found is not None
    assert found.resident == pytest.approx(resident, abs=0.0015)
    assert found.layer_s * layers == pytest.approx(step_s, abs=0.006)
    assert found.throughput == pytest.approx(throughput, abs=0.5 + 0.004 * throughput)


@pytest.mark.parametrize("lengths", [(77, 32), (418, 128)])
def test_search_is_no_worse_than_any_policy_of_its_grid(lengths) -> None:
    grid, workload = (1, 8, 48), Workload(*lengths)
    found = search(MIXTRAL, workload, H200, grid)
    assert found is not None
    for micro_batch in grid:
        for number in range(1, 60):
            other = solve(MIXTRAL, workload, H200, micro_batch, number)
            assert other is None or other.throughput <= found.throughput


def test_too_little_memory_fits_nothing() -> None:
    assert search(MIXTRAL, Workload(77, 32), replace(L4, gpu_memory=8 * GIB)) is None
    assert search(MIXTRAL, Workload(77, 32), replace(L4, host_memory=90 * GIB)) is None
