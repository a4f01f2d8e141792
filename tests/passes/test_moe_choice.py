"""What `--gpu-memory` alone chooses: by the model no slower than the usual, as was decided."""

from __future__ import annotations

from typing import Any

import pytest
from weft.cost_model.hrm.prediction import predict
from weft.frontend.checkpoint import open_checkpoint
from weft.ir.diagnostics import CapacityError
from weft.offloading import Offloading
from weft.options import Options
from weft.passes.graph.moe_choice import usual
from weft.passes.graph.moe_fit import Wish

MIB = 1 << 20


def made(**changes: Any) -> Offloading:
    settings = {"gpu_memory": 20 * MIB, "max_batch": 8, "kv_memory": 4 * MIB} | changes
    return Offloading(open_checkpoint("tiny-moe"), Options.from_env().changed(**settings))


def test_the_choice_is_no_slower_than_the_usual() -> None:
    offloading = made(gpu_memory=24 * MIB)
    found, wish = offloading.chosen, usual(Wish(8))
    assert found.prediction is not None and any("predicted" in text for text in found.remarks)
    scene = offloading._scene(wish)
    plain = predict(offloading._fitted(wish), scene.shape, scene.workload, scene.hardware)
    assert found.prediction.step.expected <= plain.step.expected


@pytest.mark.parametrize(
    ("decided", "kept"),
    [({"offload_schedule": "s3"}, lambda p: p.schedule == "s3"),
     ({"offload_cpu_experts": 3}, lambda p: {len(layer.cpu) for layer in p.layers} == {3}),
     ({"offload_micro_batches": 4}, lambda p: p.micro_batches == 4)],
)  # fmt: skip
def test_what_is_decided_is_not_chosen(decided: dict[str, Any], kept: Any) -> None:
    offloading = made(**decided)
    assert kept(offloading.policy)
    assert "given: " in offloading.chosen.remarks[0]


def test_all_decided_asks_no_model() -> None:
    offloading = made(
        gpu_memory=24 * MIB, offload_schedule="cgo", offload_micro_batches=2, offload_cpu_experts=1
    )
    assert offloading.chosen.prediction is None and not offloading.chosen.remarks


def test_a_disk_that_nothing_is_known_of_leaves_the_usual() -> None:
    offloading = made(offload_host_memory=9 * MIB, gpu_memory=19 * MIB)
    assert any(layer.disk for layer in offloading.policy.layers)
    assert "disk" in offloading.chosen.remarks[0]


def test_a_ring_too_short_for_two_layers_takes_the_schedule_that_copes() -> None:
    offloading = made(gpu_memory=20 * MIB, offload_cpu_experts=0)
    assert offloading.policy.schedule == "ring"
    assert offloading.policy.ring < 2 * max(len(p.streamed) for p in offloading.policy.layers)


def test_what_does_not_fit_whatever_is_chosen_says_what_is_missing() -> None:
    with pytest.raises(CapacityError, match="too few"):
        _ = made(gpu_memory=2 * MIB).policy
