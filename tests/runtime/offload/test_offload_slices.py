"""Pages that are slices of experts: the tokens of the whole model, from memory and from disk."""

from dataclasses import replace

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.ir.core import Module
from weft.options import BadOption
from weft.passes.graph.moe_partition import PolicyMismatch
from weft.runtime.execution.executor import by_name
from weft.runtime.execution.weight_files import Checkpoint
from weft.runtime.execution.weights import load_weights
from weft.runtime.offload.file_pages import FilePages
from weft.runtime.offload.page_sources import TensorPages
from weft.runtime.offload.routing import RoutingRecorder, RoutingReplay
from weft.tests.runtime.offload.offload_cases import MIB, MIXED, ON_DISK, PROMPTS, greedy, step


def divided(schedule: str, slices: int, layers=MIXED, **changes) -> Policy:
    """A policy whose first layer gives the slices of an expert to different places."""
    letters = "".join(c for c in layers[0].homes for _ in range(slices))
    mixed = [Placement("".join(letters[p * 7 % len(letters)] for p in range(len(letters))))]
    mixed += [Placement("".join(c * slices for c in layer.homes)) for layer in layers[1:]]
    widest = max(len(layer.ringed) for layer in mixed)
    ring = widest + 1 if schedule == "ring" else 2 * widest
    return Policy(8, 3, "gpu" if schedule == "s4" else "cpu", tuple(mixed), 8, slices, ring,
                  schedule=schedule, page_format="f32", **changes)  # fmt: skip


def step_of(made) -> Module:
    return Module((made.module.symbol("step"),))


@pytest.mark.parametrize(
    ("schedule", "slices"), [("ring", 2), ("s4", 2), pytest.param("cgo", 3, marks=pytest.mark.slow)]
)
def test_tokens_equal_the_whole_models(schedule, slices, cases, whole):
    policy = divided(schedule, slices)
    assert any(0 < policy.gpu_fraction(0, expert) < 1 for expert in range(8))
    executor = cases.executor(policy)
    assert greedy(executor) == whole
    assert executor.popularity().sum() == 2 * 5 * (sum(map(len, PROMPTS)) + 4 * 5)
    executor.close()


def test_slices_come_from_disk_and_move_to_the_cpu_as_they_grow_cold(cases, whole):
    executor = cases.executor(divided("ring", 2, ON_DISK))
    executor.options = replace(executor.options, adapt_every=2)
    assert greedy(executor) == whole
    assert any("colder experts" in note for note in executor.notes)
    executor.close()


def test_files_and_tensors_give_the_slices_that_weights_are_cut_into(cases):
    made = cases.offloading(divided("cgo", 2))
    experts = [s.weights for s in made.lowered.sections if s.kind == "experts"][0]
    loaded = load_weights(
        Module((made.module.symbol("step"),)), Checkpoint(cases.checkpoint.folder)
    )
    sources = (FilePages(cases.checkpoint.folder, [experts]), TensorPages(made.tensors, [experts]))
    for page in (0, 1, 7, 14):
        for source in sources:
            into = {role: torch.empty(loaded[weight.result.name].data.shape[1:])
                    for role, weight in zip(("gate_up", "down"), experts, strict=True)}  # fmt: skip
            source.read(0, page, into)
            for role, weight in zip(("gate_up", "down"), experts, strict=True):
                assert torch.equal(into[role], loaded[weight.result.name].data[page])


@pytest.mark.slow
def test_slices_of_int8_mean_what_their_numbers_are(cases):
    made = cases.offloading(replace(divided("ring", 2), page_format="int8"))
    executor = made.executor(made.kernels([]))
    prompt = step((range(40, 52), 0, [0]), ((7, 8), 0, [1]))
    found = executor.forward(prompt).clone()
    loaded = load_weights(
        Module((made.module.symbol("step"),)), Checkpoint(cases.checkpoint.folder)
    )
    dense = {name: weight.dense() for name, weight in loaded.items()}
    run = GraphRun(step_of(made), dense, slots=512)
    torch.testing.assert_close(found, run.step(by_name(prompt)), atol=1e-3, rtol=1e-3)
    executor.close()


def test_routing_is_of_experts_whatever_their_slices(cases):
    traces = []
    for slices in (1, 2):
        executor = cases.executor(divided("cgo", slices))
        recorder = executor.routing = RoutingRecorder(cases.checkpoint.config)
        logits = executor.forward(step((range(40, 60), 0, [0, 1]))).clone()
        traces.append(recorder.trace())
        executor.routing = RoutingReplay(traces[-1], "cpu")
        assert torch.equal(executor.forward(step((range(40, 60), 0, [0, 1]))), logits)
        executor.close()
    assert (traces[0].chosen == traces[1].chosen).all() and traces[0].top_k == 2


def test_options_that_ask_for_slices(cases, whole):
    made = cases.offloading(None, gpu_memory=20 * MIB, offload_cpu_experts=1,
                            offload_pages_per_expert=2)  # fmt: skip
    assert made.policy.pages_per_expert == 2
    assert {len(layer.cpu) for layer in made.policy.layers} == {2}
    executor = made.executor(made.kernels([]))
    assert greedy(executor, 2) == [tokens[:2] for tokens in whole]
    assert executor.device.memory.peak <= executor.device.memory.cap
    executor.close()
    chosen = cases.offloading(None, gpu_memory=20 * MIB, offload_pages_per_expert=0).policy
    assert chosen.pages_per_expert == 1  # a page of tiny-moe is small as it is
    with pytest.raises(PolicyMismatch, match="5 pages an expert, but the model has .* 192 rows"):
        _ = cases.offloading(None, gpu_memory=20 * MIB, offload_pages_per_expert=5).policy
    with pytest.raises(BadOption, match="offload_pages_per_expert must be positive"):
        cases.offloading(None, offload_pages_per_expert=-1)
