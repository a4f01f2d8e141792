"""Pipelines as data: text round trips, queues, edges, and schedules that cannot be."""

from dataclasses import replace

import pytest
from weft.ir.offload.builder import PipelineBuilder
from weft.ir.offload.pipeline import Access, BrokenPipeline, Kind, Pipeline
from weft.ir.offload.schedules import SCHEDULES, PipelineShape, build_pipeline
from weft.ir.parser import parse_module
from weft.ir.verifier import verify

SHAPE = PipelineShape(
    3, ringed=((0, 1, 2), (1, 2)), ring=6, resident=((5,), ()), cpu=((4,), (4,)), disk=((2,), ())
)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_text_form_reads_back(name):
    pipeline = build_pipeline(name, SHAPE)
    module = pipeline.module()
    verify(module, ("graph",))
    assert parse_module(str(module)) == module
    assert Pipeline.of(parse_module(str(module)).operations[0]) == pipeline
    assert all(task.name in str(pipeline) for task in pipeline.tasks)


def test_order_of_cgopipe():
    """Algorithm 1: behind the hidden states of each micro-batch its share of the next layer."""
    pipeline = build_pipeline("cgo", PipelineShape(4, ringed=((0, 1, 2, 3),) * 2, ring=8))
    up = [task.name for task in pipeline.queues["up"]]
    assert up[:4] == ["seen_up.0.0", "page.1.0", "seen_up.0.1", "page.1.1"]
    gpu = [task.name for task in pipeline.queues["gpu"] if task.kind is not Kind.EMBED]
    assert gpu[:6] == [
        "pre.0.0", "pre.0.1", "route.0.0", "experts.0.0.0", "combine.0.0", "pre.0.2",
    ]  # fmt: skip
    assert gpu.index("pre.1.0") == gpu.index("combine.0.2") + 1


def test_rivals_copy_a_layer_at_once():
    shape = PipelineShape(3, ringed=((0, 1, 2),) * 2, ring=6)
    for name, order in {"s2": ["seen_up.0.0", "page.1.0", "seen_up.0.1"],
                        "s3": ["page.1.0", "seen_up.0.0", "seen_up.0.1"],
                        "s4": ["kv_up.0.0", "page.1.0", "kv_up.0.1"]}.items():  # fmt: skip
        pipeline = build_pipeline(name, shape)
        assert [task.name for task in pipeline.queues["up"]][:3] == order
        assert pipeline.by_name["page.1.0"].pages == (0, 1, 2)


def test_a_ring_smaller_than_two_layers_waits_for_the_experts_that_free_it():
    shape = PipelineShape(3, ringed=((0, 1, 2, 3),) * 2, ring=5)
    pipeline = build_pipeline("ring", shape)
    waits = {task.name: task.waits for task in pipeline.of_kind(Kind.PAGE)}
    assert waits["page.1.0"] == () and waits["page.1.1"] == ("experts.0.2.0",)
    assert waits["page.1.3"] == ("experts.0.2.2",)
    with pytest.raises(BrokenPipeline, match="needs 8"):
        build_pipeline("cgo", shape)


def test_each_step_finds_the_pages_that_the_one_before_has_left():
    for name in SCHEDULES:
        shape = replace(SHAPE, warm=False, ring=7)
        for _ in range(9):
            pipeline = build_pipeline(name, shape)
            left = {access.slot: access.holds for task in pipeline.tasks for access in task.writes}
            following = shape.after()
            held = [a for a in build_pipeline(name, following).holds if a.slot.startswith("page")]
            assert held and all(left[a.slot] == a.holds.replace("w.0.", "w.2.") for a in held)
            shape = following


def test_s4_synchronous_lets_nothing_overlap_micro_batches():
    shape = PipelineShape(2, ringed=((0,),) * 2, ring=2, synchronous=True)
    pipeline = build_pipeline("s4", shape)
    edges, before = pipeline.predecessors(), {}
    for name in edges:
        before[name] = set(edges[name]).union(*(before[other] for other in edges[name]))
    assert {"combine.0.0", "kv_down.0.0", "kv_up.0.1"} <= before["kv_up.1.0"]


def test_a_queue_that_was_not_used_before_waits_for_all_that_was_synchronised():
    builder = PipelineBuilder("s", 1, 1)
    first = builder.task(Kind.EMBED, "gpu", 0, 0)
    builder.sync()
    late = builder.task(Kind.READ, "disk", 0, number=0)
    assert late.waits == (first.name,)
    assert builder.task(Kind.READ, "disk", 0, number=1).waits == ()
    builder.sync()
    assert builder.task(Kind.PRE, "gpu", 0, 0).waits == ("read.0.1",)


def test_pipelines_that_do_not_fit_together():
    pipeline = build_pipeline("s3", SHAPE)
    twice = replace(pipeline, tasks=(*pipeline.tasks, pipeline.tasks[0]))
    with pytest.raises(BrokenPipeline, match=r"two tasks embed\.0\.0"):
        twice.predecessors()
    ahead = replace(pipeline.tasks[0], waits=("combine.1.0",))
    with pytest.raises(BrokenPipeline, match="not launched before it"):
        replace(pipeline, tasks=(ahead, *pipeline.tasks[1:])).predecessors()
    with pytest.raises(BrokenPipeline, match="no such schedule: cgo, s2"):
        build_pipeline("s5", SHAPE)
    with pytest.raises(BrokenPipeline, match="at least 1"):
        build_pipeline("ring", replace(SHAPE, micro_batches=0))
    with pytest.raises(BrokenPipeline, match="pipeline x: task a is of no kind that is: 'fly'"):
        Pipeline.of(
            parse_module("""graph.pipeline name = @x, layers = 1, micro_batches = 1 {
            graph.task name = "a", kind = fly, queue = gpu, layer = 0
        }""").operations[0]
        )


def test_an_event_of_another_queue_covers_what_is_launched_there():
    pipeline = build_pipeline("cgo", SHAPE)
    task = next(pipeline.of_kind(Kind.SEEN_UP))
    moved = replace(task, event_queue="cpu")
    tasks = tuple(moved if each is task else each for each in pipeline.tasks)
    edges = replace(pipeline, tasks=tasks).predecessors()
    assert "attend.0.1" in edges["route.0.0"] and task.name not in edges["route.0.0"]


def test_accesses_read_back():
    assert Access.of(str(Access("page.0", "w.1.2"))) == Access("page.0", "w.1.2")
