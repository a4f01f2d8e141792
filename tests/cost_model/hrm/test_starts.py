"""Starts of tasks by the interpreter: by hand on a chain, hidden behind what runs, shared."""

import pytest
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm.machine import ATTENTION_CORES, HostedGpu
from weft.cost_model.hrm.starts import CALLS, CALLS_PER_PAGE, simulate_started, start_seconds
from weft.cost_model.hrm.timed import UNDER_WAY
from weft.cost_model.simulate import Cost
from weft.ir.offload.pipeline import Kind, Pipeline, Task
from weft.runtime.devices import streams
from weft.runtime.offload import cores

MACHINE = HostedGpu.of(load("h200"))
PRE, HEAD = (start_seconds(kind, MACHINE) for kind in ("pre", "head"))


def task(name: str, kind: Kind, queue: str, *waits: str) -> Task:
    return Task(name, kind, queue, 0, 0, waits=waits)


def seconds(*tasks: Task, work: float = 0.0) -> float:
    costs = {each.name: Cost(work) for each in tasks}
    pipeline = Pipeline("p", 1, 1, tasks)
    return simulate_started(pipeline, costs, {}, MACHINE, {}).seconds


def test_a_start_is_a_task_and_its_calls() -> None:
    assert PRE == pytest.approx(MACHINE.task_start + 2 * MACHINE.call_start)
    assert set(CALLS) <= {kind.value for kind in Kind}


def test_short_tasks_of_a_chain_take_their_starts() -> None:
    chain = task("a", Kind.PRE, "gpu"), task("b", Kind.PRE, "gpu"), task("c", Kind.HEAD, "gpu", "b")
    assert seconds(*chain) == pytest.approx(2 * PRE + HEAD)


def test_starts_hide_behind_what_runs() -> None:
    chain = task("a", Kind.PRE, "gpu"), task("b", Kind.PRE, "gpu")
    assert seconds(*chain, work=0.5) == pytest.approx(PRE + 1.0)


def test_a_task_of_the_device_starts_after_the_hosts_is_done() -> None:
    """A launch may come before what it waits for on the device, and not before it on the host."""
    on_host = task("a", Kind.ATTEND, "cpu"), task("b", Kind.PRE, "gpu", "a")
    attend = start_seconds("attend", MACHINE)
    assert seconds(*on_host, work=0.5) == pytest.approx(attend + 0.5 + PRE + 0.5)
    on_device = task("a", Kind.HEAD, "down"), task("b", Kind.PRE, "gpu", "a")
    assert seconds(*on_device, work=0.5) == pytest.approx(HEAD + 0.5 + 0.5)


def test_threads_share_the_interpreter() -> None:
    apart = task("a", Kind.PRE, "gpu"), task("b", Kind.PRE, "up")
    assert seconds(*apart) == pytest.approx(2 * PRE)


def test_a_task_whose_thread_waits_is_launched_when_it_is_done() -> None:
    chain = task("a", Kind.KV_DOWN, "down"), task("b", Kind.PRE, "gpu", "a")
    begin = start_seconds("kv_down", MACHINE)
    assert seconds(*chain, work=0.5) == pytest.approx(begin + 0.5 + PRE + 0.5)


def test_what_the_model_knows_of_the_runtime_is_so() -> None:
    assert UNDER_WAY == streams.PIECE * streams.UNDER_WAY and 1 / ATTENTION_CORES == cores.ATTENTION


def test_what_is_gathered_delays_its_copy_alone() -> None:
    tasks = task("a", Kind.KV_UP, "up"), task("b", Kind.PRE, "gpu")
    costs = {each.name: Cost(0.0) for each in tasks}
    gathered = {"a": Cost(0.3)}
    found = simulate_started(Pipeline("p", 1, 1, tasks), costs, {}, MACHINE, gathered)
    assert found.end["a"] > 0.3 > found.end["b"] and set(found.queues) == {"up", "gpu"}


def test_experts_of_the_cpu_call_more_for_each_page_of_their_layer() -> None:
    tasks = (
        Task("a", Kind.CPU_EXPERTS, "cpu_experts", 0, 0),
        Task("b", Kind.CPU_EXPERTS, "cpu_experts", 1, 0),
        Task("c", Kind.ATTEND, "cpu_experts", 1, 0),
    )
    costs = {each.name: Cost(0.0) for each in tasks}
    pipeline = Pipeline("p", 2, 1, tasks)
    found = simulate_started(pipeline, costs, {}, MACHINE, {}, cpu_pages=[3, 0])
    plain = start_seconds("cpu_experts", MACHINE)
    more = 3 * CALLS_PER_PAGE * MACHINE.call_start
    assert found.end["a"] == pytest.approx(plain + more)
    assert found.end["b"] - found.end["a"] == pytest.approx(plain)
    assert found.end["c"] - found.end["b"] == pytest.approx(start_seconds("attend", MACHINE))
