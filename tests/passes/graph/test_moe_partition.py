"""Partitioning by experts: the same numbers, text in and out, remarks, policies that misfit."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.placement import Placement, PolicyError
from weft.cost_model.policy_text import dumps
from weft.ir.core import Module, Symbol
from weft.ir.offload.pipeline import Pipeline
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.passes.graph.moe_fit import CapTooSmall, HostTooSmall, Room, Wish, fit_policy
from weft.passes.graph.moe_functions import cut
from weft.passes.graph.moe_partition import PolicyMismatch, pipeline_shape
from weft.passes.graph.moe_sections import NoExperts
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import named_passes
from weft.tests.passes.graph.moe_cases import (
    FACTS,
    MIXED,
    MIXTRAL,
    QWEN,
    logits,
    partitioned,
    shared,
)


@pytest.mark.parametrize("config", [MIXTRAL, QWEN], ids=["mixtral", "qwen3-moe"])
@pytest.mark.parametrize("attention", ["cpu", "gpu"])
def test_the_partitioned_step_means_the_same(config, attention):
    policy = replace(MIXED, attention=attention, schedule="s4" if attention == "gpu" else "cgo")
    module = partitioned(config, policy)
    assert torch.equal(logits(module), logits(shared(config)))
    verify(module, ("graph",))
    assert parse_module(str(module)) == module


def test_rows_of_experts_that_are_not_there_are_never_used():
    """The meaning of a row that an experts section does not compute is not a number."""
    module = partitioned(MIXTRAL, MIXED)
    text = str(module).replace("graph.moe_join %rows, ", "graph.moe_join %rows, ", 1)
    faulty = re.sub(r"experts = \[3\]", "experts = []", text, count=1)
    assert faulty != text and torch.isnan(logits(parse_module(faulty))).any()


def test_golden_dump(golden):
    policy = replace(MIXED, batch=4, micro_batch=2)
    golden("graph/moe_partition.txt", str(partitioned(MIXTRAL, policy)))


def test_remarks_say_what_lies_where():
    context = Context()
    partitioned(MIXTRAL, MIXED, context)
    did = [remark.message for remark in context.remarks if remark.done]
    assert did[0] == "layer 0: 1 resident, 2 streamed, 1 on the CPU of 4 pages"
    assert "layer 2: 2 resident, 2 streamed, 1 from disk of 4 pages" not in did[1]
    assert any("attention on the CPU" in text for text in did)
    assert re.search(r"cgo: \d+ orders of \d+ tasks hold for any durations \(z3", did[-1])
    context = Context()
    partitioned(MIXTRAL, replace(MIXED, attention="gpu", schedule="s4", kv_gpu=0.5), context)
    assert "50% of the pages of keys on the GPU" in [r.message for r in context.remarks if r.done]


def test_text_in_text_out_with_the_policy_in_the_function():
    (function,) = shared(MIXTRAL).operations
    text = str(Module((function.with_attributes(policy=dumps(MIXED)),)))
    passes = named_passes(["moe-partition"])
    module, _ = run_passes(passes, parse_module(text), Context(), FACTS)
    pipeline = Pipeline.of(module.symbol("cgo"))
    assert (pipeline.layers, pipeline.micro_batches) == (3, 2)
    assert module.symbol("step")["kv"].name == "host"
    context = Context()
    run_passes(passes, shared(MIXTRAL), context, FACTS)
    assert "stays whole" in context.remarks[0].message


def test_sections_become_functions_whose_arguments_are_roles():
    sections = cut(partitioned(MIXTRAL, MIXED).symbol("step"))
    by_name = {section.name: section for section in sections}
    assert [s.kind for s in sections[:7]] == [
        "embed", "pre", "append", "attend", "route", "experts", "experts",
    ]  # fmt: skip
    assert by_name["route_0"].results == ("x", "normed", "weights", "order", "starts")
    arguments = [value.name for value in by_name["experts_0_host"].function.regions[0].arguments]
    assert arguments == ["normed", "order", "starts", "gate_up", "places", "down"]
    assert len(by_name["experts_0"].weights) == 2
    assert "experts_1" not in by_name and by_name["experts_1_host"].place == "host"


def test_policies_of_another_model():
    with pytest.raises(PolicyMismatch, match=r"4 experts in each of 2 layers.*has 4 in each of 3"):
        partitioned(MIXTRAL, replace(MIXED, layers=MIXED.layers[:2]))
    three = replace(MIXED, pages_per_expert=3, layers=(Placement("s" * 12),) * 3, ring=24)
    with pytest.raises(PolicyMismatch, match="80 rows, which do not divide into so many"):
        partitioned(MIXTRAL, three)
    with pytest.raises(PolicyError, match="schedule cgo needs 4 slots"):
        partitioned(MIXTRAL, replace(MIXED, ring=3))
    dense = replace(MIXTRAL, architecture="LlamaForCausalLM", experts=0, experts_per_token=0)
    policy = replace(MIXED, layers=MIXED.layers)
    with pytest.raises((NoExperts, PolicyMismatch)):
        partitioned(dense, policy)


def test_an_expert_count_that_micro_batches_do_not_divide():
    policy = replace(MIXED, batch=6, micro_batch=2, layers=(Placement("ssss"),) * 3, ring=8)
    pipeline = Pipeline.of(partitioned(MIXTRAL, policy).symbol("cgo"))
    pages = [task.pages for task in pipeline.tasks if task.name.startswith("page.1.")]
    assert policy.micro_batches == 3 and sorted(sum(pages, ())) == [0, 1, 2, 3]


def test_what_fits_is_kept_and_the_rest_streamed():
    room = Room(gpu=85, weights=20, working=10, page=5)
    policy = fit_policy(3, 4, room, Wish(8))
    assert [layer.homes for layer in policy.layers] == ["rrrs", "rrrs", "rrrs"]
    assert policy.ring == 2 * policy.widest
    tight = fit_policy(3, 4, replace(room, gpu=60), Wish(8))  # no room for two layers' pages
    assert {layer.homes for layer in tight.layers} == {"ssss"} and tight.ring == 6
    used = sum(len(layer.resident) for layer in policy.layers) + policy.ring
    assert room.weights + room.working + used * room.page <= room.gpu
    everything = fit_policy(3, 4, replace(room, gpu=1000), Wish(8))
    assert {layer.homes for layer in everything.layers} == {"rrrr"}


@given(st.floats(0, 6), st.integers(1, 3), st.integers(1, 9))
def test_experts_of_the_cpu_that_are_no_whole_number_differ_by_layer(number, each, layers):
    found = Wish(8, cpu_experts=number, pages_per_expert=each).cpu_pages(layers)
    assert len(found) == layers and max(found) - min(found) <= 1
    assert abs(sum(found) - number * each * layers) < 1
    room = Room(gpu=1 << 20, weights=20, working=10, page=5)
    fitted = fit_policy(layers, 8, room, Wish(8, "cgo", cpu_experts=number, pages_per_expert=each))
    assert [len(layer.cpu) for layer in fitted.layers] == found


@pytest.mark.parametrize("schedule", ["ring", "cgo", "s4"])
def test_policies_that_fit_never_exceed_the_cap(schedule):
    for gpu in range(70, 200, 7):
        for cpu in (0, 1, 3):
            room = Room(gpu=gpu, weights=20, working=10, page=5)
            policy = fit_policy(3, 4, room, Wish(8, schedule, cpu_experts=cpu))
            used = sum(len(layer.resident) for layer in policy.layers) + policy.ring
            assert room.weights + room.working + used * room.page <= gpu
            assert all(len(layer.cpu) == cpu for layer in policy.layers)
            pipeline_shape(policy)


def test_caps_that_are_too_small_say_by_how_much():
    mib = 1 << 20
    room = Room(gpu=40 * mib, weights=20 * mib, working=10 * mib, page=5 * mib)
    with pytest.raises(CapTooSmall, match=r"40\.0 MiB of GPU memory are 20\.0 MiB too few"):
        fit_policy(3, 4, room, Wish(8))
    with pytest.raises(CapTooSmall, match="at least 60MiB"):
        fit_policy(3, 4, room, Wish(8))
    host = replace(room, gpu=60 * mib, host=30 * mib, kv=20 * mib, buffers=mib)
    with pytest.raises(HostTooSmall, match=r"30\.0 MiB of host memory are 6\.0 MiB too few"):
        fit_policy(3, 4, host, Wish(8))
    policy = fit_policy(3, 4, replace(host, host=46 * mib), Wish(8))
    assert sum(len(layer.disk) for layer in policy.layers) == 10


def test_the_pass_keeps_what_it_does_not_divide():
    module = partitioned(MIXTRAL, MIXED)
    assert {op["name"] for op in module.operations} == {Symbol("step"), Symbol("cgo")}
