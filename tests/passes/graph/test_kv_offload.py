"""Keys across a link in the graph: fetches, predictions, and launches that no order can harm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from weft.codegen.meaning.evaluate import Evaluator
from weft.cost_model.keys_ahead import BOOKS, GUESS
from weft.cost_model.sparse_attention import select_launches
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.models.presets import preset
from weft.frontend.models.registry import build_graph
from weft.ir.core import Module, Operation
from weft.ir.expression import read
from weft.ir.offload.pipeline import Pipeline
from weft.ir.parser import parse_module
from weft.ir.printer import print_module
from weft.ir.sparse.policy import parse_policy
from weft.ir.verifier import verify
from weft.passes.graph.hazards import Hazard, prove_hazards, race
from weft.passes.graph.launch_pipeline import launch_pipeline
from weft.passes.tile.regimes import Regime, Sparse, lower_for_gpu, lower_model
from weft.tests.each_time import each_time

POLICY = "sparse(k=20, sinks=2, recent=6, min_context=0, dense=[3])"
SPARSE = Sparse(POLICY, always=True, offload=True)


@cache
def regimes(model: str = "tiny-dense") -> list[Regime]:
    checkpoint = open_checkpoint(model)
    return lower_model(checkpoint.config, checkpoint.graph, max_tokens=64, max_batch=8,
                       decode_rows=(4,), attention=SPARSE)  # fmt: skip


@cache
def gpu_regimes(model: str = "tiny-dense") -> list[Regime]:
    checkpoint = open_checkpoint(model)
    return lower_for_gpu(checkpoint.config, checkpoint.graph, max_tokens=64, max_batch=8,
                         attention=SPARSE)  # fmt: skip


def before(regime: Regime, name: str) -> Module:
    return next(record for record in regime.records if record.name == name).before


def pipeline_of(regime: Regime) -> tuple[Pipeline, Any]:
    kernels = {kernel["name"].name: kernel for kernel, _ in regime.kernels}
    return launch_pipeline(regime.function, kernels, dict(regime.extents))


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_each_sparse_layer_fetches_and_the_one_before_predicts(model: str) -> None:
    module = before(regimes(model)[0], "lower-to-tiles")
    verify(module, ("graph",))
    assert parse_module(print_module(module)) == module
    layers = [n for n in range(open_checkpoint(model).config.layers) if n != 3]
    fetches = [op for op in module.walk() if op.name == "graph.fetch"]
    assert [op["layer"] for op in fetches if not op.attribute("ahead")] == layers
    ahead = [op["layer"] for op in fetches if op.attribute("ahead")]
    assert ahead == [n for n in layers if n - 1 in layers]  # nothing predicts behind a dense layer
    assert not any(op.name == "graph.merge" for op in module.walk())
    guesses = [op for op in module.walk() if op.attribute("guess")]
    assert [op["layer"] for op in guesses] == ahead
    record = next(r for r in regimes(model)[0].records if r.name == "offload-keys")
    assert any("layer 4: no sparse layer before it" in r.message for r in record.remarks)


def test_the_predicted_query_is_of_this_layers_input_and_the_next_ones_weights() -> None:
    operations = before(regimes()[0], "lower-to-tiles").symbol("step").regions[0].operations
    maker = {value.name: op for op in operations for value in op.results}
    writes = {op["layer"]: op for op in operations if op.name == "graph.qkv_rope_write"
              and not op.attribute("guess")}  # fmt: skip
    guess = next(op for op in operations if op.attribute("guess"))
    mine, own, after = (maker[op.operands[0].name] for op in (guess, writes[0], writes[1]))
    assert mine.operands == (own.operands[0], *after.operands[1:])


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_launches_are_proven_for_any_durations(model: str) -> None:
    pipeline, tasks = pipeline_of(regimes(model)[0])
    proof = prove_hazards(pipeline)
    ahead = [task for task in pipeline.tasks if task.queue == "up"]
    assert ahead and proof.obligations > 3 * len(ahead)
    launches = [number for task in tasks for number in range(task.first, task.end)]
    assert launches == list(range(len(launches)))
    assert Pipeline.of(parse_module(print_module(pipeline.module())).operations[0]) == pipeline


def test_attention_and_the_experts_run_beside_what_is_fetched_ahead() -> None:
    """Between a fetch's launch and whoever waits for it lie attention and all up to the next q;
    and beside what is late the next layer's lists are made."""
    regime = regimes()[0]
    _, tasks = pipeline_of(regime)
    kinds = [call["of"] for call in calls_of(regime)]
    (late, lists, ahead, attention), waiting = tasks[1:5], tasks[5]
    assert [late.queue, lists.queue, ahead.queue, attention.queue] == ["up", "gpu", "up", "gpu"]
    assert not lists.waits and kinds[lists.end - 1] == "graph.select"
    assert attention.waits == (late.name,) and waiting.waits == (ahead.name,)
    beside = kinds[attention.first : attention.end]
    assert beside[0] == "graph.finalize" and beside.count("graph.fused_matmul") == 4


def calls_of(regime: Regime) -> list[Operation]:
    names = {"graph.call", "graph.library"}
    return [op for op in regime.function.regions[0].operations if op.name in names]


@pytest.mark.parametrize("model", each_time(["tiny-dense", "tiny-moe"], "tiny-dense"))
def test_a_gpus_launches_are_proven_too(model: str) -> None:
    """Lists are the step's, shared by all layers; a step with prompts predicts nothing."""
    of_gpu = gpu_regimes(model)
    for regime in of_gpu:
        verify(regime.module, ("graph", "tile"))
        pipeline, tasks = pipeline_of(regime)
        queues = [task.queue for task in tasks]
        if not regime.sparse:
            assert queues == ["gpu"]
            continue
        assert prove_hazards(pipeline).obligations > len(tasks)
        names = [str(op.attribute("kernel")) for op in calls_of(regime)]
        assert any("keys_guess" in name for name in names) == (regime.rows > 0)
        assert not any(schedule.chained for _, schedule in regime.kernels)
    decode = next(regime for regime in of_gpu if regime.sparse and regime.rows > 1)
    kinds = [call["of"] for call in calls_of(decode)]
    _, tasks = pipeline_of(decode)
    late, lists, ahead, attention = tasks[1:5]
    assert [late.queue, lists.queue, ahead.queue, attention.queue] == ["up", "gpu", "up", "gpu"]
    assert not lists.waits and attention.waits == (late.name,)
    assert kinds[attention.first] == "graph.finalize"


def launched(policy: str, ahead: bool) -> list[Operation]:
    """Return the kernels that have programs in a step of one row of two layers, of more key heads
    than one launch chooses for, which shares its keys with nobody."""
    config = replace(preset("llama-8b"), kv_heads=16, layers=2, windows=(0, 0))
    sparse = Sparse(policy, "h200", always=True, offload=True, ahead=ahead)
    step = next(regime for regime in lower_for_gpu(config, build_graph(config), weights="bf16",
                max_tokens=64, max_batch=8, activations="bf16", kv="bf16", attention=sparse)
                if regime.sparse and regime.rows == 1)  # fmt: skip
    named = {kernel["name"].name: kernel for kernel, _ in step.kernels}
    sizes = Evaluator({**dict.fromkeys(("T", "R", "B", "W", "M", "G"), 1), "Q": 0, "QM": 0})
    kernels = [named[call["kernel"].name] for call in calls_of(step) if call.attribute("kernel")]
    return [kernel for kernel in kernels
            if all(read(str(extent), sizes) > 0 for extent in kernel["grid"])]  # fmt: skip


@pytest.mark.parametrize(
    "amount",
    each_time(["ratio=1/16", "top_p=0.9", "ratio=1/16, labels=bf16"],
              "top_p=0.9", "ratio=1/16, labels=bf16"),
)  # fmt: skip
def test_predictions_are_priced_by_the_launches_that_they_add(amount: str) -> None:
    policy = parse_policy(f"sparse({amount}, channels=32, min_context=0)")
    assert policy is not None
    added = len(launched(str(policy), True)) - len(launched(str(policy), False))
    assert added == GUESS + BOOKS + select_launches("gpu", policy, 128)


@pytest.mark.parametrize("queue", ["gpu", "up"])
def test_a_gpus_launches_without_a_wait_are_refused(queue: str) -> None:
    pipeline, _ = pipeline_of(gpu_regimes()[1])
    chosen = next(task for task in pipeline.tasks[3:] if task.waits and task.queue == queue)
    tasks = tuple(replace(t, waits=()) if t is chosen else t for t in pipeline.tasks)
    with pytest.raises(Hazard, match=chosen.name):
        prove_hazards(replace(pipeline, tasks=tasks))


def test_every_wait_is_needed() -> None:
    pipeline, _ = pipeline_of(regimes()[0])
    waiting = [task for task in pipeline.tasks if task.waits]
    assert len(waiting) > 8
    for task in waiting:
        tasks = tuple(replace(t, waits=()) if t is task else t for t in pipeline.tasks)
        assert race(replace(pipeline, tasks=tasks)) is not None, task.name
    without = tuple(replace(t, waits=()) if t is waiting[3] else t for t in pipeline.tasks)
    with pytest.raises(Hazard, match=waiting[3].name):
        prove_hazards(replace(pipeline, tasks=without))


def test_shared_memory_of_activations_counts() -> None:
    """What another queue reads lies in the arena: who writes those bytes has to wait."""
    regime = regimes()[0]
    memory = regime.function["memory"]
    offsets = dict(memory["offsets"].items)
    ahead = next(op for op in calls_of(regime) if op.attribute("queue") and op.operands)
    chosen = ahead.operands[2].name
    pipeline, _ = pipeline_of(regime)
    up = next(task for task in pipeline.tasks if task.queue == "up"
              and any(access.slot == chosen for access in task.reads))  # fmt: skip
    same = [access.slot for access in up.reads if access.slot in offsets]
    assert chosen in same and len(same) > 2
    beside = pipeline.tasks[pipeline.tasks.index(up) + 1]
    assert not {access.slot for access in beside.writes} & set(same)
