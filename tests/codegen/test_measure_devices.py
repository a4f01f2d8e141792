"""Probes of disks and GPUs: what they move, and what becomes of it. A CPU plays the GPU."""

import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
from weft.codegen.measure import disk as measure_disk
from weft.codegen.measure.cpu import CpuProbes, Measure, _matmul, _memory, vector_units
from weft.codegen.measure.disk import disk_probes
from weft.codegen.measure.gpu import Device, beside_probe, gpu_probes, shared_probe
from weft.cost_model.calibrate import calibrate
from weft.cost_model.hardware_file import dumps, parse
from weft.cost_model.hrm.machine import HostedGpu


class Played(Device):
    """A device that is the CPU itself."""

    name = "cpu"
    copy_bytes, read_bytes, cube = 1 << 20, 1 << 20, 64

    def sync(self) -> None:
        pass

    def stream(self):
        return nullcontext()

    def capacity(self) -> float:
        return 1e9

    def cache(self) -> int:
        return 1 << 18

    def title(self) -> str:
        return "played"

    def units(self) -> int:
        return 1

    def products(self) -> tuple[str, ...]:
        return "bf16", "f32", "f8e4m3"

    def pinned(self, bytes_: int):
        import torch

        return torch.empty(bytes_, dtype=torch.uint8)

    def replay(self, run):
        return run


@pytest.fixture
def small_file(monkeypatch):
    monkeypatch.setattr(measure_disk, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(measure_disk, "BLOCK", 1 << 18)


def test_a_whole_machine_becomes_a_file_that_a_search_can_use(tmp_path, small_file) -> None:
    main = replace(_memory("memory", 1 << 20, 1e9), by_threads={1: one_second()})
    cpu = CpuProbes(1, [main], {"bf16": _matmul("bf16", 64)}, {"f32": [one_second()]},
                    {"parallel": one_second()})  # fmt: skip
    gpu, links = gpu_probes(Played())
    with disk_probes(tmp_path) as found:
        assert found is not None
        disk, ways = found
        machine = calibrate("here", [cpu, gpu, disk], [*links, *ways], versions={}, device="t",
                            rounds=2)  # fmt: skip
    assert parse(dumps(machine)) == machine
    assert set(machine.level("cpu").main.by_threads) == {1}
    assert [memory.name for memory in machine.level("gpu").memories] == ["L2", "device"]
    assert set(machine.level("gpu").matmul) == {"bf16", "f32", "f8e4m3"}
    hosted = HostedGpu.of(machine)
    assert hosted.disk > 0 and hosted.up > 0 and hosted.copy_start > 0
    assert not list(tmp_path.glob("calibrate-*"))


def test_reads_beside_copies_count_both() -> None:
    device, read = Played(), slept()
    shared = shared_probe(read, device)
    copies, rest = divmod(shared.amount - 2 * read.amount, device.copy_bytes)
    assert copies >= 1 and rest == 0
    assert shared.probe() >= 0.002


def test_work_beside_copies_counts_itself_alone(monkeypatch) -> None:
    """Copies are under way when the work begins, and not waited for in its time."""
    device, events = Played(), []
    stream = device.stream
    monkeypatch.setattr(device, "stream", lambda: events.append("copies") or stream())
    monkeypatch.setattr(device, "sync", lambda: events.append("sync"))
    work = Measure(lambda: events.append("work") or 0.25, 7.0)
    probe = beside_probe(work, device)
    events.clear()
    assert probe.amount == 7.0 and probe.probe() == 0.25
    assert events == ["sync", "copies", "work", "sync"]


def one_second() -> Measure:
    return Measure(lambda: 1.0, 1.0)


def slept() -> Measure:
    def probe() -> float:
        time.sleep(0.002)
        return 0.001

    return Measure(probe, 100.0)


def test_a_disk_without_room_is_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure_disk, "FILE_BYTES", 1 << 60)
    with disk_probes(tmp_path) as found:
        assert found is None
    (tmp_path / "file").write_text("")
    with disk_probes(tmp_path / "file" / "below") as found:
        assert found is None


def test_an_error_while_measuring_is_not_swallowed(tmp_path, small_file) -> None:
    with pytest.raises(OSError, match="gone"), disk_probes(tmp_path):
        raise OSError("gone")


def test_vector_units_are_of_the_known_ones() -> None:
    assert set(vector_units()) <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"}
