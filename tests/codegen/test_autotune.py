"""The choice of schedules: ranking, search by a clock that the test sets, and what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from weft.codegen.cache import key_of
from weft.codegen.measure.autotune import Choices, search
from weft.compiler import Compilation
from weft.compiler.choices import choices_of
from weft.cost_model.binding import decode
from weft.cost_model.hardware_file import load
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.schedule import Schedule
from weft.options import Options
from weft.passes.tile.candidates import Demand, ranked
from weft.passes.tile.products.matmul import Matmul, matmul
from weft.passes.tile.products.scaled_matmul import ScaledMatmul, scaled_matmul
from weft.passes.tile.regimes import lower_model, merge_kernels
from weft.runtime.execution import timing
from weft.runtime.execution.compiled_executor import CompiledExecutor
from weft.runtime.execution.timing import BoundLaunch, step_seconds
from weft.tuning.lines import kernel_lines
from weft.tuning.search import search_schedules

USUAL = Schedule()
OTHERS = [Schedule(unroll=n) for n in (1, 2, 3, 5, 6, 7)]
KERNEL = matmul(Matmul(64, 128))


def clock(**seconds: float | None) -> Any:
    return lambda schedule: seconds.get(f"u{schedule.unroll}", 1.0)


def test_the_fastest_of_the_first_few_is_taken() -> None:
    found = search(USUAL, OTHERS, clock(u4=1.0, u2=0.5, u3=0.8, u7=0.1), top=3)
    assert found.schedule.unroll == 2 and found.tried == 4 and found.gain == 0.5


def test_noise_does_not_change_the_usual_schedule() -> None:
    assert search(USUAL, OTHERS, clock(u4=1.0, u2=0.98)).schedule == USUAL


def test_a_schedule_that_does_not_compile_is_left_out() -> None:
    found = search(USUAL, OTHERS, clock(u1=None, u2=0.6))
    assert found.schedule.unroll == 2
    with pytest.raises(ValueError, match="usual"):
        search(USUAL, OTHERS, clock(u4=None))


def test_choices_are_kept_for_their_device_only(tmp_path: Path) -> None:
    choice = search(USUAL, OTHERS, clock(u2=0.5))
    Choices(tmp_path, "one").keep(KERNEL, choice)
    assert Choices(tmp_path, "one").find(KERNEL) == choice
    assert Choices(tmp_path, "one").find(matmul(Matmul(64, 256))) is None
    assert Choices(tmp_path, "two").find(KERNEL) is None
    pairs = Choices(tmp_path, "one").applied([(KERNEL, USUAL), (matmul(Matmul(8, 8)), USUAL)])
    assert [schedule.unroll for _, schedule in pairs] == [2, 4]


def test_two_processes_keep_each_others_choices(tmp_path: Path) -> None:
    one, other = Choices(tmp_path, "one"), Choices(tmp_path, "one")
    assert one.find(KERNEL) is other.find(KERNEL) is None
    one.keep(KERNEL, search(USUAL, OTHERS, clock(u2=0.5)))
    other.keep(matmul(Matmul(8, 8)), search(USUAL, OTHERS, clock(u1=0.5)))
    assert Choices(tmp_path, "one").find(KERNEL) == one.find(KERNEL)
    chosen = search(USUAL, OTHERS, clock(u1=0.5))
    other.keep(KERNEL, chosen)
    one.keep(matmul(Matmul(8, 16)), chosen)  # what one knew of KERNEL is older
    assert Choices(tmp_path, "one").find(KERNEL) == one.find(KERNEL) == chosen


def test_nobody_keeps_a_choice_between_another_ones_reading_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices, seen = Choices(tmp_path, "one"), []
    read = choices._read_file

    def noticed() -> dict[str, Any]:
        with choices._home.locked([key_of("one")], wait=False) as free:
            seen.append(free)
        return read()

    choices._known  # read without a lock: what is written is whole  # noqa: B018
    monkeypatch.setattr(choices, "_read_file", noticed)
    choices.keep(KERNEL, search(USUAL, OTHERS, clock(u2=0.5)))
    assert seen == [set()]
    with choices._home.locked([key_of("one")], wait=False) as free:
        assert free


@pytest.mark.parametrize(
    "damage", ["", "{", '{"device": "one", "choices": 3}', "[]", '{"device": "one"}']
)
def test_a_broken_file_counts_as_empty(tmp_path: Path, damage: str) -> None:
    choices = Choices(tmp_path, "one")
    choices.keep(KERNEL, search(USUAL, OTHERS, clock(u2=0.5)))
    choices.path.write_text(damage)
    again = Choices(tmp_path, "one")
    assert again.find(KERNEL) is None
    again.keep(KERNEL, search(USUAL, OTHERS, clock(u1=0.5)))
    kept = Choices(tmp_path, "one").find(KERNEL)
    assert kept is not None and kept.schedule.unroll == 1


def test_a_choice_of_another_version_is_not_taken(tmp_path: Path) -> None:
    choices = Choices(tmp_path, "one")
    choices.keep(KERNEL, search(USUAL, OTHERS, clock(u2=0.5)))
    kept = choices.path.read_text()
    choices.path.write_text(kept.replace('"unroll"', '"unrolled"'))
    assert Choices(tmp_path, "one").find(KERNEL) is None
    choices.path.write_text(json.dumps({"device": "one", "choices": {
        key: {"schedule": "serial"} for key in json.loads(kept)["choices"]}}))  # fmt: skip
    assert Choices(tmp_path, "one").find(KERNEL) is None


def test_small_kernels_are_ranked_serial_and_large_ones_parallel() -> None:
    level = load("cpu-generic").level()
    small, large = (Demand(2.0 * size, 4.0 * size, 64) for size in (1e3, 1e7))
    assert not ranked(KERNEL, USUAL, small, level)[0].schedule.parallel
    best = ranked(KERNEL, USUAL, large, level)
    assert best[0].schedule.parallel and best[0].schedule == USUAL
    assert [c.seconds for c in best] == sorted(c.seconds for c in best)


def test_on_a_gpu_bytes_under_way_decide_and_what_does_not_fit_comes_last() -> None:
    level = load("h200").level()
    kernel = scaled_matmul(ScaledMatmul(4096, 4096, rows=16, block_n=16, block_k=64))
    base, demand = Schedule(num_warps=4, num_stages=3), Demand(1e8, 2e7, 32, "bf16", True)
    found = ranked(kernel, base, demand, level)
    by_stages = {c.schedule.num_stages: c.seconds for c in found if c.schedule.num_warps == 4}
    assert by_stages[2] > by_stages[3]  # a program has fewer bytes under way
    bounded = replace(base, registers=192)
    apart = replace(bounded, specialised=136)
    kinds = base, bounded, apart
    assert [len(ranked(kernel, each, demand, level)) for each in kinds] == [9, 18, 3]
    huge = scaled_matmul(ScaledMatmul(4096, 4096, rows=256, block_n=256, block_k=256))
    last = ranked(huge, USUAL, demand, level)[-1]
    assert last.seconds == float("inf")


class Clocked:
    """An executor whose kernels take the time that a test says, by a name, a schedule, and the name
    of the kernel that ran before; on a clock of its own."""

    timed_in_order = True
    group_seconds = CompiledExecutor.group_seconds

    def __init__(self, regime: Any, costs: Any) -> None:
        body = regime.function.regions[0].operations
        calls = [op for op in body if op.name in {"graph.call", "graph.library"}]
        self.now, self.costs, self.before = 0.0, costs, ""
        self._launches = []
        for number, call in enumerate(calls):
            name = call["kernel"].name if call.name == "graph.call" else call["routine"]
            launch = (self.kernel(name, USUAL), ())
            self._launches.append(BoundLaunch(number, name, call["of"], launch))

    def kernel(self, name: str, schedule: Schedule) -> Any:
        def run() -> None:
            self.now += self.costs(name, schedule, self.before)
            self.before = name

        return run

    def launches(self, step: Any) -> list[BoundLaunch]:
        return self._launches


@pytest.fixture(scope="module")
def regimes() -> Any:
    config = ModelConfig("LlamaForCausalLM", 80, 32, 2, 4, 2, 8, 48, 64, Rope(1e4), windows=(0, 0))
    return lower_model(config, build_graph(config), max_tokens=32, max_batch=4, decode_rows=(1,))


@pytest.fixture
def compilation(regimes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(costs: Any) -> Any:
        executor = Clocked(regimes[0], costs)
        monkeypatch.setattr(timing, "perf_counter", lambda: executor.now)
        return SimpleNamespace(executor=executor, regimes=regimes, schedules=merge_kernels(regimes),
                               options=Options())  # fmt: skip

    return made


def test_each_kernel_of_a_step_is_searched_once_and_its_choice_kept(
    compilation: Any, tmp_path: Path
) -> None:
    def costs(name: str, schedule: Schedule, before: str) -> float:
        fast = name.startswith("matmul") and schedule.parallel and schedule.unroll == 8
        return 1.0 if fast else 2.0

    made, choices = compilation(costs), Choices(tmp_path, "clock")
    level, steps, heard = load("cpu-generic").level(), [(None, decode(1, 16))] * 2, []

    def build(kernel: Any, schedule: Schedule) -> Any:
        return made.executor.kernel(kernel["name"].name, schedule)

    found = search_schedules(made, choices, steps, level, heard.append, build)
    names = {each.kernel for each in made.executor.launches(None)}
    assert set(found) == names and len(heard) == len(names)
    taken = {name for name, choice in found.items() if choice.schedule.unroll == 8}
    assert taken <= {name for name in names if name.startswith("matmul")}
    assert search_schedules(made, choices, steps, level, build=build) == {}  # all are kept
    applied = dict((op["name"].name, s) for op, s in choices.applied(made.schedules))
    assert all(applied[name] == choice.schedule for name, choice in found.items())


def test_a_kernel_that_a_step_runs_instead_of_the_usual_one_is_searched(
    compilation: Any, tmp_path: Path
) -> None:
    """What a step sends is cut for it: by that the usual one is not to be judged."""
    other = matmul(Matmul(8, 8))
    name = other["name"].name

    def costs(kernel: str, schedule: Schedule, before: str) -> float:
        return 1.0 if kernel == name and schedule != USUAL else 2.0

    made, choices = compilation(costs), Choices(tmp_path, "clock")
    made.schedules = [*made.schedules, (other, USUAL)]
    launches = made.executor._launches
    usual = next(each for each in launches if each.kernel.startswith("matmul"))
    alike = [each.number for each in launches if each.kernel == usual.kernel]
    for number in alike:
        run = made.executor.kernel(name, USUAL), ()
        launches[number] = replace(launches[number], instead=name, launch=run)

    def build(kernel: Any, schedule: Schedule) -> Any:
        return made.executor.kernel(kernel["name"].name, schedule)

    level, steps = load("cpu-generic").level(), [(None, decode(1, 16))]
    found = search_schedules(made, choices, steps, level, build=build)
    assert found[name].gain == 0.5 and choices.find(other) == found[name]
    assert usual.kernel not in found


def test_a_schedule_that_is_faster_only_behind_its_own_kernel_is_not_chosen(
    compilation: Any, tmp_path: Path
) -> None:
    """In a step another kernel is launched between two of its launches, and has the caches."""

    def costs(name: str, schedule: Schedule, before: str) -> float:
        return 2.0 if schedule.unroll != 8 else 1.0 if before == name else 3.0

    made, choices = compilation(costs), Choices(tmp_path, "clock")

    def build(kernel: Any, schedule: Schedule) -> Any:
        return made.executor.kernel(kernel["name"].name, schedule)

    level, steps = load("cpu-generic").level(), [(None, decode(1, 16))]
    found = search_schedules(made, choices, steps, level, build=build)
    assert any(choice.tried > 1 for choice in found.values())
    assert all(choice.schedule.unroll != 8 for choice in found.values())


def test_long_steps_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runs = [0.0], []

    def run(seconds: float) -> None:
        clock[0] += seconds
        runs.append(seconds)

    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    most, long = timing.ROUNDS, timing.LONG
    for seconds, rounds in ((1e-3, most), (2 * long, most // 2), (50 * long, timing.LEAST)):
        runs.clear()
        found = step_seconds([BoundLaunch(0, "a", "a", (run, (seconds,)))])
        assert found == [pytest.approx(seconds)]
        assert len(runs) == rounds + 1  # one that does not count


def test_lines_say_shape_launches_and_the_share_of_the_roof(compilation: Any) -> None:
    made = compilation(lambda name, schedule, before: 1e-3)
    lines = kernel_lines(made, None, decode(1, 16), load("cpu-generic").level())  # type: ignore[arg-type]
    head = next(line for line in lines if line.shape.endswith("f32[1,80]"))
    assert head.shape == "f32[1,32] f32[80,32] f32[32] > f32[1,80]"
    assert head.launches == 1 and head.work.weight_bytes == 4 * (80 * 32 + 32)
    data = head.data()
    assert data["measured_us"] == pytest.approx(1000)
    assert data["gb_s"] == pytest.approx(head.work.bytes / 1e-3 / 1e9)
    assert data["percent_of_roof"] == pytest.approx(100 * head.roof / 1e-3)
    assert sum(line.launches for line in lines) == len(made.executor.launches(None))
    attention = next(line for line in lines if line.operation == "graph.finalize")
    assert attention.work.kv_read_bytes == 2 * 4 * 16 * 16  # two kv heads of 8, 16 keys, f32


def test_launches_of_a_step_are_timed_behind_those_before_them(monkeypatch: Any) -> None:
    clock, held = [0.0], [""]

    def launch(number: int, name: str) -> BoundLaunch:
        def run() -> None:  # what the launch before has left in a cache is read sooner
            clock[0] += 1.0 if held[0] == name else 3.0
            held[0] = name

        return BoundLaunch(number, name, name, (run, ()))

    monkeypatch.setattr("weft.runtime.execution.timing.perf_counter", lambda: clock[0])
    launches = [launch(number, name) for number, name in enumerate("abba")]
    assert step_seconds(launches) == [1.0, 3.0, 1.0, 3.0]


def test_a_compilation_takes_what_was_chosen_unless_told_not_to(tmp_path: Path) -> None:
    program = 'program p() -> str:\n    "a"\n    gen x(max_tokens=1)\n    return x\n'
    options = Options(cache=tmp_path, tune="off")
    usual = Compilation(program, "tiny-dense", options=options).schedules
    kernel, schedule = next(pair for pair in usual if pair[0]["name"].name.startswith("matmul1"))
    other = Schedule(unroll=2)
    choices_of(options).keep(kernel, search(schedule, [other], lambda s: float(s.unroll)))
    pairs = Compilation(program, "tiny-dense", options=Options(cache=tmp_path)).schedules
    chosen = {op["name"].name: schedule for op, schedule in pairs}
    assert chosen[kernel["name"].name] == other
    assert Compilation(program, "tiny-dense", options=options).schedules == usual
    assert Options.from_env({"WEFT_TUNE": "off"}).tune == "off"
