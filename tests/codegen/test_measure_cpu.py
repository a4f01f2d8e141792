"""The CPU's probes run, and calibration turns them into a description that loads again."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from weft.codegen.measure import attention, cpu
from weft.codegen.measure.cpu import CpuProbes, Measure
from weft.cost_model.calibrate import calibrate
from weft.cost_model.hardware import Hardware
from weft.cost_model.hardware_file import dumps, load, parse, save
from weft.tuning.machine import host_probes


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CpuProbes]:
    """Return probes that do less than those of `weft calibrate`: their figures are no peaks. They
    count the time of this process alone: others may keep the processor from it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention, cpu):
            patch.setattr(module, "time", SimpleNamespace(perf_counter=time.process_time))
        for name, less in (("STREAM_BYTES", 16 << 20), ("BEYOND", 0), ("FMA_ROUNDS", 20_000),
                           ("PRODUCT", 128), ("CALLS", 20)):  # fmt: skip
            patch.setattr(cpu, name, less)
        yield host_probes(1, tmp_path_factory.mktemp("probes"), keys=1 << 20)


@pytest.fixture(scope="module")
def machine(probes: CpuProbes) -> Hardware:
    return calibrate("here", [probes], versions=probes.versions, device=probes.device, rounds=2)


def test_probes_become_a_hardware_file(probes: CpuProbes, machine: Hardware, tmp_path) -> None:
    assert probes.memories[-1].name == "memory"
    assert probes.vector["f32"][0].amount == 2 * cpu.fma_lanes() * cpu.FMA_ROUNDS
    save(machine, tmp_path / "here.json")
    assert load(tmp_path / "here.json") == machine
    level = machine.level()
    assert level.main.read.max > 1e9
    assert level.matmul_rate("f32").max > 1e9 and level.vector_rate("f32").max > 1e9
    assert 0 < level.launch_cost("serial").min < 1e-3
    assert 0 < level.launch_cost("call").min and 0 < level.launch_cost("task").min < 0.1


def test_attentions_kernel_is_measured_by_threads(machine: Hardware) -> None:
    level = machine.level()
    known = level.vector_rate("attention")
    assert 0 < known.min <= known.median <= known.max < level.vector_rate("f32").max
    assert set(level.vector_by_threads["attention"]) == {1}
    assert 0 < level.launch_cost("attention row").min < 1e-3
    assert parse(dumps(machine)) == machine


def test_a_measure_is_seconds_of_one_run() -> None:
    assert Measure(lambda: 0.5, 10.0).probe() == 0.5
