"""What `--gpu-memory` alone chooses: by the model no slower than the usual, as was decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from weft.compiler.offloading import Offloading
from weft.cost_model.hardware_file import measured_or_shipped
from weft.cost_model.hrm.grid import Grid
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.memory import Batch, gpu_lines
from weft.cost_model.hrm.model import Site
from weft.cost_model.hrm.prediction import predict
from weft.cost_model.hrm.search import policy_of, refined
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.diagnostics import CapacityError
from weft.options import BadOption, Options
from weft.passes.graph.moe_choice import as_it_fits, usual
from weft.passes.graph.moe_fit import HostTooSmall, Room, Wish, pages_on_gpu, wish_of
from weft.passes.graph.moe_partition import PolicyMismatch

MIB, GIB = 1 << 20, 1 << 30


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


@pytest.mark.parametrize("model, wish, tokens", [
    ("tiny-moe", Wish(1, "ring", 1, page_format="bf16"), 1024),
    ("tiny-moe", Wish(16, "cgo", 4, page_format="bf16"), 512),
    ("random:mixtral-8x7b-16l", Wish(1500, "ring", 4, page_format="bf16"), 16384),
    ("random:mixtral-8x7b-16l", Wish(320, "ring", 4, page_format="bf12"), 4096),
    ("random:mixtral-8x7b-16l", Wish(1500, "cgo", 8, page_format="bf16", pages_per_expert=4), 4096),
    ("random:mixtral-8x7b-16l", Wish(1500, "s4", 4, page_format="bf16"), 1500),
])  # fmt: skip
def test_the_search_knows_what_the_executor_takes(model: str, wish: Wish, tokens: int) -> None:
    """A policy that is searched for a cap must fit it: lines of the model against the lowering."""
    checkpoint = open_checkpoint(model)
    options = Options(prove=False).changed(
        target="cuda", gpu_memory=16 * GIB, max_batch=wish.batch, max_tokens=tokens,
        kv_memory=256 * MIB,
    )  # fmt: skip
    room = Offloading(checkpoint, options)._room(wish)
    on_gpu = wish.schedule == "s4"
    batch = Batch(
        wish.batch, -(-wish.batch // wish.micro_batches), "gpu" if on_gpu else "cpu", tokens,
        wish.pages_per_expert, cpu_experts=False,
    )  # fmt: skip
    shape = MoeShape.of(checkpoint.config, wish.page_format)
    lines = gpu_lines(shape, Workload(64, 64), batch)
    lines.pop("keys and values", 0)  # the search knows the lengths, the executor its pages
    taken = room.weights + room.working
    assert sum(lines.values()) <= taken + MIB
    assert sum(lines.values()) >= taken * (0.98 if model != "tiny-moe" and on_gpu else 0.999) - MIB


def test_a_tuned_policy_runs_at_its_own_cap() -> None:
    """On the simulated GPU activations are f32: fewer pages lie there than on a real one."""
    checkpoint = open_checkpoint("tiny-moe")
    for cap in (9 * MIB, 20 * MIB):
        site = Site(HostedGpu.of(measured_or_shipped()), cap, 8 * GIB)
        found = refined(MoeShape.of(checkpoint.config), Workload(64, 64), site, Grid(most=64))
        policy = policy_of(found, MoeShape.of(checkpoint.config))
        options = Options(weights="bf16").changed(
            gpu_memory=cap, offload_policy=policy, kv_memory=4 * MIB,
            max_batch=policy.batch, max_tokens=max(policy.prefill_tokens, policy.batch),
        )  # fmt: skip
        offloading = Offloading(checkpoint, options)
        chosen = offloading.policy
        assert (
            pages_on_gpu(chosen) * offloading._room(wish_of(chosen)).page
            <= offloading._room(wish_of(chosen)).left
        )
        assert (chosen.batch, chosen.schedule) == (policy.batch, policy.schedule)


def test_a_policy_of_another_model_is_refused_for_that() -> None:
    other = Policy(8, 4, "cpu", (Placement("ssss"),) * 2, 4, 1, 8)
    with pytest.raises(PolicyMismatch, match="4 experts in each of 2 layers, but"):
        _ = made(offload_policy=other, gpu_memory=9 * MIB).module


def test_numbers_that_a_model_or_a_step_does_not_have() -> None:
    for changes, said in (
        ({"offload_cpu_experts": 9}, "is 9, but tiny-moe has 8 a layer"),
        ({"offload_micro_batches": 9}, "is 9, but a step has at most 8 sequences"),
    ):
        with pytest.raises(BadOption, match=said):
            made(**changes)


def test_what_does_not_fit_whatever_is_chosen_says_what_is_missing() -> None:
    with pytest.raises(CapacityError, match="too few"):
        _ = made(gpu_memory=2 * MIB).policy


def _given(*homes: str, ring: int = 12) -> Policy:
    layers = tuple(map(Placement, homes))
    return Policy(8, 2, "cpu", layers, 8, 1, ring, schedule="cgo", page_format="f32")


ROOM = Room(gpu=100, weights=20, working=10, page=5)
"""Fourteen pages on the GPU."""


def test_a_given_policy_keeps_to_the_bound_of_host_memory() -> None:
    policy = _given("rrssssss", "rrssssss")
    roomy = replace(ROOM, gpu=200)
    assert as_it_fits(policy, lambda wish: roomy).policy == policy
    found = as_it_fits(policy, lambda wish: replace(roomy, host=62, kv=20, buffers=2))
    assert [layer.homes for layer in found.policy.layers] == ["rrsssssd", "rrdddddd"]
    assert found.remarks == (
        "policy given, but 7 pages more come from disk: host memory holds no more",
    )
    with pytest.raises(HostTooSmall, match=r"1 B of host memory are 36 B too few"):
        as_it_fits(policy, lambda wish: replace(roomy, host=1, kv=20, buffers=2))


def test_what_does_not_fit_leaves_the_cpu_and_the_disk_what_they_had() -> None:
    policy = _given("csrrrrdc", "dcrrrrsc", "rrrrcscd", ring=4)
    found = as_it_fits(policy, lambda wish: replace(ROOM, gpu=105)).policy
    assert [layer.homes for layer in found.layers] == ["csrrrsdc", "dcrrrssc", "rrrscscd"]


def test_what_does_not_fit_leaves_keys_where_they_were() -> None:
    policy = replace(_given("rrrrrrss", "rrrrrrss", "rrrrrrss", ring=4),
                     schedule="s4", attention="gpu", kv_gpu=0.5)  # fmt: skip
    fitted = as_it_fits(policy, lambda wish: replace(ROOM, gpu=135)).policy
    assert (fitted.schedule, fitted.attention, fitted.kv_gpu) == ("s4", "gpu", 0.5)
    assert pages_on_gpu(fitted) < pages_on_gpu(policy)


def test_more_experts_of_the_cpu_are_fitted_in_the_room_that_they_leave() -> None:
    """Their rows take memory of the GPU, too."""
    policy, asked = _given("ssssssss", "ssssssss", ring=16), []

    def room_of(wish: Wish) -> Room:
        asked.append(wish.cpu_experts)
        return replace(ROOM, working=10 + (20 if wish.cpu_experts else 0))

    found = as_it_fits(policy, room_of).policy
    assert pages_on_gpu(found) * ROOM.page <= ROOM.left - 20
    assert len(found.layers[0].cpu) == 3 and asked[0] == 0 and 3 in asked


def test_pages_of_twelve_bits_take_less_of_host_memory() -> None:
    """Those of the GPU are wide: more of them are there than come from disk."""
    offloading = made(
        gpu_memory=16 * MIB, weights="bf16", offload_page_format="bf12", offload_schedule="ring",
        offload_micro_batches=4, offload_cpu_experts=0, offload_host_memory=12 * MIB,
    )  # fmt: skip
    room = offloading._room(wish_of(offloading.policy))
    assert 0.75 <= room.stored / room.page < 0.77
    streamed = sum(len(layer.streamed) for layer in offloading.policy.layers)
    room_for = room.host - room.kv - room.buffers - 3 * room.stored
    assert streamed == room_for // room.stored > room_for // room.page
