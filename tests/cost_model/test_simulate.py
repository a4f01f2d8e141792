"""The simulator of pipelines: order, waits, sharing, and what cannot run."""

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.simulate import Cost, SimulationError, simulate


class Task(NamedTuple):
    name: str
    queue: str


def chain(*names: str) -> dict[str, list[str]]:
    return {name: list(names[:n][-1:]) for n, name in enumerate(names)}


def test_queues_run_beside_each_other_and_waits_hold() -> None:
    tasks = [Task("a", "x"), Task("b", "x"), Task("c", "y"), Task("d", "y")]
    before = {"a": [], "b": ["a"], "c": [], "d": ["c", "a"]}
    costs = {"a": Cost(3.0), "b": Cost(1.0), "c": Cost(1.0), "d": Cost(2.5)}
    line = simulate(tasks, before, costs)
    assert line.start == {"a": 0.0, "c": 0.0, "b": 3.0, "d": 3.0}
    assert line.seconds == 5.5
    assert line.busy("x") == pytest.approx(4 / 5.5)


def test_a_shared_memory_slows_both_in_proportion() -> None:
    """Two tasks of 1 s that each would use 80 of 100 bytes a second end after 1.6 s."""
    tasks = [Task("a", "x"), Task("b", "y")]
    costs = {name: Cost(1.0, {"dram": 80.0}) for name in ("a", "b")}
    before: dict[str, list[str]] = {"a": [], "b": []}
    assert simulate(tasks, before, costs, {"dram": 100.0}).seconds == pytest.approx(1.6)
    assert simulate(tasks, before, costs).seconds == 1.0


def test_after_one_ends_the_other_runs_freely() -> None:
    """Both run at half speed for 2 s; then b has 1 s of its own left."""
    costs = {"a": Cost(1.0, {"dram": 100.0}), "b": Cost(2.0, {"dram": 200.0})}
    line = simulate([Task("a", "x"), Task("b", "y")], {"a": [], "b": []}, costs, {"dram": 100.0})
    assert (line.end["a"], line.end["b"]) == pytest.approx((2.0, 3.0))


def test_tasks_of_no_time_end_at_once() -> None:
    costs = {"a": Cost(0.0, {"dram": 5.0}), "b": Cost(1.0)}
    line = simulate([Task("a", "x"), Task("b", "x")], chain("a", "b"), costs, {"dram": 1.0})
    assert line.end == {"a": 0.0, "b": 1.0}


def test_what_cannot_run() -> None:
    tasks = [Task("a", "x"), Task("b", "y")]
    with pytest.raises(SimulationError, match="task b has no cost"):
        simulate(tasks, {"a": [], "b": []}, {"a": Cost(1.0)})
    costs = {"a": Cost(1.0), "b": Cost(1.0)}
    with pytest.raises(SimulationError, match="task a never starts: it waits for b"):
        simulate(tasks, {"a": ["b"], "b": ["a"]}, costs)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_what_is_no_time_or_gives_nothing_is_refused(seconds: float) -> None:
    with pytest.raises(SimulationError, match=f"task a takes {seconds} seconds"):
        simulate([Task("a", "x")], {"a": []}, {"a": Cost(seconds)})
    with pytest.raises(SimulationError, match="link gives 0.0 a second"):
        simulate([Task("a", "x")], {"a": []}, {"a": Cost(1.0, {"link": 1.0})}, {"link": 0.0})


@st.composite
def pipelines(draw):
    count = draw(st.integers(1, 12))
    tasks = [Task(f"t{n}", draw(st.sampled_from("xyz"))) for n in range(count)]
    before: dict[str, list[str]] = {}
    last: dict[str, str] = {}
    for number, task in enumerate(tasks):
        earlier = [f"t{n}" for n in range(number)]
        waits = draw(st.lists(st.sampled_from(earlier), max_size=2)) if earlier else []
        before[task.name] = waits + [last[task.queue]] if task.queue in last else waits
        last[task.queue] = task.name
    costs = {
        task.name: Cost(draw(st.integers(0, 8)) / 4, {"m": float(draw(st.integers(0, 4)))})
        for task in tasks
    }
    return tasks, before, costs


@given(pipelines(), st.integers(1, 4))
def test_laws(pipeline, capacity: int) -> None:
    """No task starts before its predecessors end; sharing only slows, and keeps the roof."""
    tasks, before, costs = pipeline
    free = simulate(tasks, before, costs)
    shared = simulate(tasks, before, costs, {"m": float(capacity)})
    for line in (free, shared):
        for name, waits in before.items():
            assert all(line.end[wait] <= line.start[name] + 1e-9 for wait in waits)
    for name, cost in costs.items():
        assert free.end[name] - free.start[name] == pytest.approx(cost.seconds)
        assert shared.end[name] - shared.start[name] >= cost.seconds - 1e-9
    moved = sum(cost.uses["m"] for cost in costs.values() if cost.seconds)
    assert shared.seconds >= moved / capacity - 1e-9
