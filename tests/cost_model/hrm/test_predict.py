"""Demands against the graph's own count, steps by simulation against rows, intervals."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.cost_model.binding import Formats, decode
from weft.cost_model.hardware import Hardware, Rate
from weft.cost_model.hardware_file import dumps, load, parse
from weft.cost_model.hrm.demands import Demand, Scene, demand
from weft.cost_model.hrm.linear import LinearModel
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.memory import GIB
from weft.cost_model.hrm.model import Site, linear_model
from weft.cost_model.hrm.prediction import predict
from weft.cost_model.hrm.search import batch_of, counts_of
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.cost_model.hrm.spread import placements
from weft.cost_model.hrm.timed import run, simulated_step, task_costs
from weft.cost_model.pipelines import pipeline_shape
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.cost_model.scene import Scene as GraphScene
from weft.cost_model.work import work_of
from weft.frontend.models.presets import preset
from weft.frontend.models.registry import build_graph
from weft.ir.offload.pipeline import Kind
from weft.ir.offload.schedules import build_pipeline

CONFIG = preset("mixtral-8x7b-1l")
SHAPE = MoeShape.of(CONFIG)
H200 = load("h200")
MACHINE = HostedGpu.of(H200)


@pytest.mark.parametrize("batch, context", [(1, 100), (64, 512)])
def test_demands_are_the_work_of_the_graph(batch: int, context: int) -> None:
    """FLOPs, weights and KV of a layer and the head, counted from the model's graph IR."""
    module = build_graph(CONFIG)
    graph = GraphScene.of(module, decode(batch, context), Formats(kv="bf16", weight="bf16"))
    works = [work_of(operation, graph) for operation in module.walk()]
    scene = Scene(SHAPE, 1, batch, context, "gpu", 1.0)
    pages = tuple(range(SHAPE.experts))
    total = Demand()
    for kind in ("pre", "append", "attend", "route", "experts", "combine", "head"):
        total = total + demand(kind, scene, pages if kind == "experts" else ())
    assert total.gpu_flops == pytest.approx(sum(work.flops for work in works), rel=0.01)
    weights = SHAPE.attention_bytes + SHAPE.router_bytes + SHAPE.head_bytes
    weights += SHAPE.layer_bytes * SHAPE.touched(batch)
    read = sum(w.weight_bytes + w.kv_read_bytes for w in works)
    assert weights + batch * context * SHAPE.kv_token_bytes == pytest.approx(read, rel=0.01)
    activations = total.gpu_bytes - read
    assert 0 < activations < 0.2 * read


def test_the_product_with_values_counts() -> None:
    """The published code counts Q K only: half of what a key costs."""
    asked = demand("attend", Scene(SHAPE, 1, 1, 1000))
    assert asked.cpu_vector > 4 * SHAPE.head_dim * SHAPE.heads * 1000
    assert asked.cpu_vector < 4.2 * SHAPE.head_dim * SHAPE.heads * 1000


def test_staging_makes_three_accesses_of_a_byte() -> None:
    scene = Scene(SHAPE, 1, 0, 0)
    copied, staged = demand("page", scene, (0,)), demand("stage", scene, (0,))
    assert copied.dram + staged.dram == 3 * scene.page_bytes


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.LAUNCHES}))
def test_bytes_grow_with_their_elements(kind: Kind) -> None:
    """But for logits, and for a pair's weight and place, which are of four bytes always."""
    half = replace(SHAPE, element=2, host_element=2, page_format="bf16")
    whole = replace(half, element=4, host_element=4, page_format="f32")
    for attention in ("cpu", "gpu"):
        scenes = [Scene(shape, 2, 24.0, 96.0, attention, 0.25, (), 0.5, 8.0)
                  for shape in (half, whole)]  # fmt: skip
        narrow, wide = (demand(kind, scene, (0, 1)) for scene in scenes)
        fixed = {"head": 4.0 * 24 * (1 + 0.5 / 8) * SHAPE.vocabulary,
                 "routed_down": 8.0 * 36 * SHAPE.top_k}.get(kind, 0.0)  # fmt: skip
        for name in ("gpu_bytes", "cpu_bytes", "up", "down", "staged", "disk", "dram"):
            if moved := getattr(narrow, name):
                assert getattr(wide, name) - fixed == pytest.approx(2 * (moved - fixed)), name


def test_pages_of_an_expert_add_up() -> None:
    whole = demand("cpu_experts", Scene(SHAPE, 1, 32, 0), (3,))
    halves = demand("cpu_experts", Scene(SHAPE, 2, 32, 0), (6, 7))
    assert halves.cpu_flops == pytest.approx(whole.cpu_flops)
    assert halves.cpu_bytes == pytest.approx(whole.cpu_bytes, rel=0.05)


def policy(homes: str, layers: int = 8, **changes: object) -> Policy:
    made: dict[str, object] = {
        "batch": 640, "micro_batch": 64, "attention": "cpu", "experts": 8, "pages_per_expert": 1,
        "layers": (Placement(homes),) * layers, "ring": 16,
    }  # fmt: skip
    return Policy(**{**made, **changes})  # type: ignore[arg-type]


POLICIES = {
    "stream all": (policy("ssssssss"), Workload(512, 64)),
    "some resident": (policy("rrrsssss", ring=8), Workload(77, 64)),
    "long context": (policy("rsssssss"), Workload(1693, 64)),
    "small ring": (policy("ssssssss", ring=9), Workload(77, 64)),
    "cpu experts": (policy("sssssscc"), Workload(77, 64)),
    "cgo": (policy("ssssssss", schedule="cgo"), Workload(512, 64)),
    "few sequences": (policy("rrrrrrrr", batch=8, micro_batch=4, ring=0), Workload(77, 64)),
    "gpu attention": (policy("ssssssss", attention="gpu", schedule="s4"), Workload(77, 64)),
}


def model_of(made: Policy, workload: Workload, shape: MoeShape) -> LinearModel:
    site = Site(MACHINE, 141 * GIB, 128 * GIB, schedule=made.schedule)
    return linear_model(shape, workload, batch_of(made), site)


@pytest.mark.parametrize("name", POLICIES)
def test_rows_and_simulation_agree(name: str) -> None:
    """No simulated step beats a roof, and rows with waits come near what is simulated."""
    made, workload = POLICIES[name]
    shape = replace(SHAPE, layers=len(made.layers))
    model, counts = model_of(made, workload, shape), counts_of(made)
    simulated = simulated_step(made, shape, workload, MACHINE).seconds
    roofs = [row.value(counts) for row in model.step if row.roof]
    assert simulated >= max(roofs) * 0.97
    assert simulated == pytest.approx(model.step_seconds(counts), rel=0.2)


def test_extrapolation_from_few_layers_is_the_whole() -> None:
    """Six layers of sixteen tell what all sixteen take."""
    made, workload = policy("rsssssss", 16), Workload(512, 64)
    shape = replace(SHAPE, layers=16)
    extrapolated = simulated_step(made, shape, workload, MACHINE).seconds
    pipeline = build_pipeline(made.schedule, pipeline_shape(made))
    whole = run(pipeline, made, shape, workload, MACHINE).seconds
    assert extrapolated == pytest.approx(whole, rel=0.03)


def test_error_bars_become_intervals() -> None:
    bare = without_bars(H200)
    up = replace(bare.links[0], together=None)
    bare = replace(bare, links=(up, *bare.links[1:]))
    wide = replace(up, bandwidth=Rate(50e9, up.bandwidth.median, 56e9))
    machine = Hardware("m", bare.levels, (wide, *bare.links[1:]))
    made, workload = policy("ssssssss"), Workload(77, 64)
    shape = replace(SHAPE, layers=8)
    predicted = predict(made, shape, workload, machine)
    assert predicted.bound == "link"
    step = predicted.step
    assert step.low < step.expected < step.high
    assert step.high / step.low == pytest.approx(56 / 50, rel=0.03)
    assert predicted.throughput.low < predicted.throughput.expected < predicted.throughput.high
    exact = predict(made, shape, workload, bare).step
    assert exact.low == exact.high == pytest.approx(step.expected)


def without_bars(machine: Hardware) -> Hardware:
    """Return a machine of medians."""

    def median(value: Any) -> Any:
        if isinstance(value, dict):
            return (
                value["median"] if "median" in value else {k: median(v) for k, v in value.items()}
            )
        return [median(each) for each in value] if isinstance(value, list) else value

    return parse(json.dumps(median(json.loads(dumps(machine)))))


@given(
    st.integers(1, 6), st.integers(1, 3),
    st.lists(st.integers(1, 4), min_size=1, max_size=3), st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=50)
def test_counts_are_spread_evenly(layers, slices, members, random) -> None:
    counts: dict[tuple[str, int], int] = {}
    for number, each in enumerate(members):
        left = layers * slices * each
        for home in ("resident", "cpu", "disk"):
            counts[home, number] = random.randint(0, left)
            left -= counts[home, number]
        counts["streamed", number] = left
    made = placements(counts, layers, slices, members)
    letters = {"resident": "r", "streamed": "s", "cpu": "c", "disk": "d"}
    for home, letter in letters.items():
        total = sum(counts[home, number] for number in range(len(members)))
        assert sum(layer.homes.count(letter) for layer in made) == total
    ringed = [len(layer.ringed) for layer in made]
    assert max(ringed) - min(ringed) <= 1
    assert {len(layer) for layer in made} == {sum(members) * slices}


def test_pages_of_twelve_bits_are_a_quarter_smaller_on_the_link_alone() -> None:
    narrow = replace(SHAPE, page_format="bf12")
    assert narrow.page_bytes(1) == pytest.approx(0.754 * SHAPE.page_bytes(1), rel=1e-3)
    assert narrow.gpu_page_bytes(1) == SHAPE.gpu_page_bytes(1)
    made, workload = policy("ssssssss"), Workload(77, 64)
    steps = [predict(made, shape, workload, H200).step.expected
             for shape in (replace(narrow, layers=8), replace(SHAPE, layers=8))]  # fmt: skip
    assert 0.75 < steps[0] / steps[1] < 0.85


def test_layers_to_draw_count_keys_and_pages_as_they_are_stored() -> None:
    """Keys of one byte have twice the intensity; pages of int4 are read from GPU memory as int8."""
    from weft.cost_model.hrm.curves import decode_attention, feed_forward

    assert decode_attention(SHAPE) == replace(decode_attention(SHAPE), near=4.0, far=4.0)
    assert decode_attention(MoeShape.of(CONFIG, kv_element=1)).far == 8.0
    wide, packed = (feed_forward(MoeShape.of(CONFIG, name), 64, 8) for name in ("int8", "int4"))
    assert packed.near == wide.near == pytest.approx(4.0, rel=0.01)
    assert packed.far == pytest.approx(2 * wide.far, rel=0.01)


def test_prompts_of_other_lengths_cost_more_attention_beside_decode_too() -> None:
    """Of lengths drawn exponentially a prompt's token sees twice the keys."""
    made = policy("rrrrrrrr", 1, overlap=True, prefill_tokens=12800)
    alike, drawn = (Workload(2000, 100, overlap=True, spread=spread) for spread in (1.0, 2.0))

    def attended(workload: Workload) -> tuple[float, float]:
        rows = {row.name: row for row in model_of(made, workload, SHAPE).step}
        pipeline = build_pipeline(made.schedule, pipeline_shape(made))
        costs = task_costs(pipeline.tasks, made, SHAPE, workload, MACHINE)
        task = next(task for task in pipeline.tasks if task.kind == Kind.ATTEND)
        return rows["cpu"].fixed, costs[task.name].seconds

    for few, many in zip(attended(alike), attended(drawn), strict=True):
        assert many > 1.3 * few
