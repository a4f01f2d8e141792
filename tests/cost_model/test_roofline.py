"""Rooflines: what bounds an operation, monotonicity in work and hardware, calibration."""

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model import calibrate, report, roofline
from weft.cost_model.binding import Binding, decode, prefill
from weft.cost_model.hardware import Level, Memory, Rate
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm import equations
from weft.cost_model.work import Work
from weft.ir.parser import parse_module

MLP = """
graph.func name = @step {
|%x: tensor<f32, [T, 512]>|
  %w = graph.weight name = "layers.0.up" : tensor<f32, [2048, 512]>
  %h = graph.matmul %x, %w : tensor<f32, [T, 2048]>
  %a = graph.silu_mul %h : tensor<f32, [T, 1024]>
  %d = graph.weight name = "layers.1.up" : tensor<f32, [512, 1024]>
  %y = graph.matmul %a, %d : tensor<f32, [T, 512]>
  graph.return %y
}
"""
CPU = load("cpu-generic").level()
sizes = st.floats(0, 1e15)
work = st.builds(Work, sizes, sizes, sizes, sizes, sizes)


class Timed(NamedTuple):
    probe: calibrate.Probe
    amount: float


class Buffer(NamedTuple):
    read: list[Timed]
    copy: list[Timed]
    name: str = "memory"
    capacity: float = 1e9
    shared: Timed | None = None
    by_threads: dict[int, Timed] = {}


class Probes(NamedTuple):
    memories: list[Buffer]
    matmul: dict[str, list[Timed]]
    vector: dict[str, list[Timed]]
    launch: dict[str, Timed]
    name: str = "cpu"
    kind: str = "cpu"
    threads: int = 2
    vector_by_threads: dict[str, dict[int, Timed]] = {}  # noqa: RUF012


def simple(bandwidth: float = 1e9, rate: float = 1e9) -> Level:
    memory = Memory("memory", 1e12, Rate.exact(bandwidth), Rate.exact(bandwidth))
    rates = {"f32": Rate.exact(rate)}
    return Level("cpu", "cpu", (memory,), rates, rates, {"serial": Rate.exact(0.0)})


def seconds(done: Work, level: Level = CPU) -> roofline.Interval:
    return roofline.op_time(done, level, level.launch_cost())[0]


def test_by_hand() -> None:
    level = simple(bandwidth=2.0, rate=4.0)
    assert seconds(Work(flops=8, weight_bytes=2), level).expected == 2.0
    assert seconds(Work(flops=4, weight_bytes=6, activation_bytes=2), level).expected == 4.0


@given(work)
def test_interval_is_ordered(done: Work) -> None:
    interval = seconds(done)
    assert 0 < interval.low <= interval.expected <= interval.high


@given(work, work)
def test_more_work_is_never_cheaper(one: Work, other: Work) -> None:
    assert seconds(one + other).expected >= seconds(one).expected * (1 - 1e-12)


@given(work, st.floats(1, 100))
def test_faster_hardware_is_never_slower(done: Work, factor: float) -> None:
    for level in (simple(1e9 * factor, 1e9), simple(1e9, 1e9 * factor)):
        assert seconds(done, level).expected <= seconds(done, simple()).expected


@given(work)
def test_never_below_any_roof(done: Work) -> None:
    level = simple()
    bound = max(done.flops / 1e9, done.bytes / 1e9)
    assert seconds(done, level).expected >= bound * (1 - 1e-12)


def test_what_bounds_changes_with_the_batch() -> None:
    module = parse_module(MLP)
    one = roofline.predict(module, decode(1, 1), load("cpu-generic"))
    many = roofline.predict(module, prefill(512), load("cpu-generic"))
    assert [cost.operation for cost in one] == ["graph.matmul", "graph.silu_mul", "graph.matmul"]
    assert (one[0].bound, many[0].bound) == ("memory", "compute")
    assert one[1].bound == "launch"


def test_gpu_launch_modes() -> None:
    module, machine = parse_module(MLP), load("h200")
    eager = roofline.step(roofline.predict(module, decode(1, 1), machine, launch="eager"))
    graph = roofline.step(roofline.predict(module, decode(1, 1), machine, launch="graph"))
    assert eager.seconds.expected - graph.seconds.expected == pytest.approx(3 * 9e-6)
    assert eager.bound_share("launch") > 0.99


def test_small_working_sets_live_in_cache() -> None:
    small, large = Work(weight_bytes=4e6), Work(weight_bytes=400e6)
    assert seconds(large).expected / seconds(small).expected > 150


def test_turning_points() -> None:
    machine = load("h200")
    near, far, link = machine.level("gpu"), machine.level("cpu"), machine.link("cpu", "gpu")
    assert equations.stay_below(1.0, far, link.bandwidth, "bf16") == pytest.approx(143.5 / 55.16)
    across = equations.attainable_across(100.0, 10.0, near, link.bandwidth, "bf16")
    assert across == pytest.approx(551.6e9)
    assert equations.link_bound_below(1e6, near, link.bandwidth, "bf16") == pytest.approx(
        774e12 / 55.16e9
    )


def test_tables_show_predicted_beside_measured() -> None:
    costs = roofline.predict(parse_module(MLP), Binding((1,), (1,)), load("cpu-generic"))
    text = report.step_table(roofline.step(costs))
    assert "layers.*.up x2" in text and "bound by" in text
    predicted = {cost.label: cost.seconds for cost in costs}
    measured = {"layers.0.up": costs[0].seconds.expected * 2}
    (only,) = report.compare(predicted, measured)
    assert only.ratio == pytest.approx(2.0) and not only.inside
    assert "2.00" in report.comparison_table([only])


def test_layers_are_grouped() -> None:
    costs = roofline.predict(parse_module(MLP), decode(1, 1), load("cpu-generic"))
    groups = report.grouped(costs)
    assert [group.label for group in groups] == ["layers.*.up x2", "a"]
    both = sum(cost.seconds.expected for cost in costs if cost.operation == "graph.matmul")
    assert groups[0].seconds.expected == pytest.approx(both)


def probes(times: list[float]) -> Probes:
    run = iter(times * 100)
    slow, fast = Timed(lambda: 2.0, 10.0), Timed(lambda: next(run), 10.0)
    launch = {"serial": Timed(lambda: 1e-3, 1000)}
    return Probes([Buffer([slow, fast], [slow])], {"f32": [slow]}, {"f32": [slow]}, launch)


def test_calibration_takes_the_best_probe_with_its_spread() -> None:
    machine = calibrate.calibrate(
        "here", [probes([0.5, 1.0, 2.0])], versions={"torch": "2"}, device="test", rounds=3
    )
    assert machine.level().main.read == Rate(5.0, 10.0, 20.0)
    assert machine.level().launch_cost().median == pytest.approx(1e-6)
    assert machine.provenance["versions"] == {"torch": "2"}


class Way(NamedTuple):
    source: str
    target: str
    bandwidth: list[Timed]
    pageable: Timed | None = None
    together: Timed | None = None
    latency: Timed | None = None


def test_calibration_of_links_and_shared_memory() -> None:
    """Copies alone, pageable, together and nearly empty; main memory by threads and shared."""
    one, two, four = (Timed(lambda s=s: s, 8.0) for s in (1.0, 2.0, 4.0))
    level = probes([1.0])._replace(
        memories=[Buffer([one], [one], shared=two, by_threads={1: four, 2: one})],
        vector_by_threads={"attention": {3: four}},
    )
    ways = [Way("cpu", "cpu", [one, two], four, two, four)]
    machine = calibrate.calibrate("here", [level], ways, versions={}, device="t", rounds=2)
    main, link = machine.level().main, machine.link("cpu", "cpu")
    assert main.shared == Rate.exact(4.0)
    assert main.by_threads == {1: Rate.exact(2.0), 2: Rate.exact(8.0)}
    assert machine.level().vector_by_threads == {"attention": {3: Rate.exact(2.0)}}
    assert (link.bandwidth, link.pageable) == (Rate.exact(8.0), Rate.exact(2.0))
    assert (link.together, link.latency) == (Rate.exact(4.0), Rate.exact(0.5))


def test_calibration_refuses_nonsense() -> None:
    with pytest.raises(calibrate.CalibrationError, match="memory read"):
        calibrate.calibrate("here", [probes([0.0])], versions={}, device="test")


def test_working_set_uses_error_bars() -> None:
    level = replace(simple(), memories=(Memory("m", 1e12, Rate(1.0, 2.0, 4.0), Rate.exact(1.0)),))
    interval = seconds(Work(weight_bytes=8.0), level)
    assert (interval.low, interval.expected, interval.high) == (2.0, 4.0, 8.0)
    assert interval.holds(8.4, slack=0.1) and not interval.holds(8.4)
