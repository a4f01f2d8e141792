"""Proofs are made once, kept, remade when damaged, and never vouch for another kernel."""

from pathlib import Path

import pytest
from weft.codegen.bounds import proofs
from weft.codegen.bounds.prove import UnprovenAccess
from weft.ir.parser import parse_module

KERNEL = """
tile.kernel name = @copy, grid = ["N"], requires = ["N >= 0"], writes = ["y"] {{
  |%N: index, %x: buffer<f32, [N]>, %y: buffer<f32, [N]>|
  %i = tile.program_id axis = 0 : index
  %j = tile.map %i, expr = "{index}" : index
  %v = tile.load %x, %j : f32
  tile.store %y, %i, %v
  tile.return
}}
"""


def kernel(index):
    return parse_module(KERNEL.format(index=index)).operations[0]


def test_a_proof_is_made_once(tmp_path, monkeypatch):
    first = proofs.ensure_proven([kernel("a")], tmp_path)
    monkeypatch.setattr(proofs, "prove_bounds", lambda kernel: pytest.fail("proven twice"))
    assert proofs.ensure_proven([kernel("a")], tmp_path) == first


def test_a_damaged_proof_is_made_anew(tmp_path):
    (first,) = proofs.ensure_proven([kernel("a")], tmp_path)
    (tmp_path / "proofs" / f"{first.key}.json").write_text("{")
    assert proofs.ensure_proven([kernel("a")], tmp_path)[0].ok


def test_a_kernel_that_may_leave_its_buffer_is_refused_whatever_is_cached(tmp_path):
    proofs.ensure_proven([kernel("a")], tmp_path)
    with pytest.raises(UnprovenAccess, match="%x"):
        proofs.ensure_proven([kernel("a + 1")], tmp_path)


def test_a_folder_that_cannot_be_written_costs_only_the_reuse(tmp_path):
    (tmp_path / "proofs").write_text("a file is in the way")
    assert proofs.ensure_proven([kernel("a")], tmp_path)[0].ok


def test_a_full_disk_costs_only_the_reuse_and_nothing_half_written_stays(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert proofs.ensure_proven([kernel("a")], tmp_path)[0].ok
    assert not list((tmp_path / "proofs").iterdir())
