"""Launches call what Triton has compiled for their signature, and nothing else."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from weft.codegen.triton.compile import compile_offline
from weft.codegen.triton.launch import Launcher, known_triton
from weft.codegen.triton.load import NoTriton, load_module
from weft.codegen.triton.source import TritonSource
from weft.passes.tile.builder import KernelBuilder

DRIVER = SimpleNamespace(get_current_device=lambda: 0, get_current_stream=lambda device: 77)


class Triton:
    """Compiles a kernel a signature, and notes what runs."""

    def __init__(self) -> None:
        self.first, self.later = [], []

    def launch(self, count, *buffers):
        """Compile."""
        self.first.append((count, *buffers))
        if count <= 0:
            return None
        name = f"compiled {len(self.first)}"
        return SimpleNamespace(
            run=lambda *given: self.later.append(given), function=name, packed_metadata=(4, 1, 0)
        )


def made():
    triton = Triton()
    return triton, Launcher(triton.launch, lambda count, *rest: (count, 2), DRIVER)


def test_the_first_launch_compiles_and_later_ones_run_that():
    triton, launch = made()
    x, y = torch.zeros(64), torch.zeros(64, dtype=torch.int32)
    for count in (3, 9, 0):
        launch(count, x, y)
    assert len(triton.first) == 1  # an empty grid launches nothing
    addresses = x.data_ptr(), y.data_ptr()
    assert triton.later == [(9, 2, 1, 77, "compiled 1", (4, 1, 0), None, None, None, 9, *addresses)]


def test_each_alignment_and_dtype_is_compiled_for_itself():
    triton, launch = made()
    x = torch.zeros(64)
    x = x[(-x.data_ptr() % 16) // 4 :]
    for buffer in (x, x[1:], x[4:], x.int(), x[2:]):
        launch(1, buffer)
    assert [given[4] for given in triton.later] == ["compiled 1"]  # x[4:] begins at 16 bytes
    launch(1, x[1:])
    assert triton.later[-1][4] == "compiled 2"


@pytest.mark.parametrize("scalar", [2**31, 1.5, True, None])
def test_scalars_that_are_no_i32_go_tritons_way(scalar):
    triton, launch = made()
    launch(1, torch.zeros(4))
    launch(1, torch.zeros(4), scalar)
    assert len(triton.first) == 2 and not triton.later


def test_a_launch_by_addresses_runs_what_a_call_of_its_kinds_compiled():
    triton, launch = made()
    x, y = torch.zeros(64), torch.zeros(64, dtype=torch.int32)
    for count, kinds in ((3, "a"), (4, "a"), (5, "b"), (6, "b"), (0, "a")):
        values = count, x.data_ptr(), y.data_ptr()
        launch.addressed(values, kinds, lambda count=count: (count, x, y))
    assert len(triton.first) == 1  # kinds that are new are looked at by their buffers
    assert [given[9] for given in triton.later] == [4, 5, 6]
    given = triton.later[0]
    launch(4, x, y)
    assert triton.later[-1] == given
    assert given[0:5] == (4, 2, 1, 77, "compiled 1") and given[10:] == (x.data_ptr(), y.data_ptr())


def test_what_triton_must_look_at_is_never_launched_by_addresses():
    triton, launch = made()
    for _ in range(3):
        launch.addressed((1, 0), "absent", lambda: (1, None))
    assert triton.first == [(1, None)] * 3 and not triton.later


def test_an_empty_grid_compiles_nothing_and_is_not_remembered():
    triton, launch = made()
    x = torch.zeros(4)
    launch(0, x)
    launch(5, x)
    assert len(triton.first) == 2


def test_this_triton_launches_as_is_known():
    pytest.importorskip("triton")
    from triton import knobs

    assert known_triton() or knobs.runtime.interpret


@pytest.mark.parametrize("name", ["triton", "long" * 99])
def test_a_folder_that_takes_no_file_costs_only_the_reuse(tmp_path, name):
    (tmp_path / "triton").write_text("a file is in the way")
    source = TritonSource("closed", "HERE = __file__\n")
    try:
        assert "weft-kernels-" in load_module(source, tmp_path / name).HERE
    finally:
        del sys.modules[source.module]


def test_a_machine_without_triton_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
    with pytest.raises(NoTriton, match="need the package triton"):
        load_module(TritonSource("absent", "import triton\n"), tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load_module(TritonSource("other", "import no_such_package\n"), tmp_path)
    with pytest.raises(NoTriton, match="need the package triton"):
        compile_offline(KernelBuilder("nothing").finish(1))
