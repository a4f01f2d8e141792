"""Faults for compute-sanitizer to find, by tool: emitted kernels that are given bad arguments."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from weft.codegen.triton.emit import emit
from weft.codegen.triton.load import load_launcher
from weft.passes.tile.rows.elementwise import embedding

VOCAB, WIDTH = 16, 64
FAR = 1 << 24
"""An id whose row lies 4 GB behind the table: no allocation of this process is there."""


def _embedding(folder: Path) -> Callable[..., Any]:
    return load_launcher(emit(embedding(VOCAB, WIDTH, "f32", factor=1.0, block=64)), folder)


def outside(folder: Path) -> None:
    """Read a row that the table does not have: for memcheck."""
    table = torch.zeros(VOCAB, WIDTH, device="cuda")
    ids = torch.tensor([FAR], dtype=torch.int32, device="cuda")
    _embedding(folder)(1, table, ids, torch.zeros(1, WIDTH, device="cuda"))


def unwritten(folder: Path) -> None:
    """Read a table that nothing was written to: for initcheck."""
    table = torch.empty(VOCAB, WIDTH, device="cuda")
    ids = torch.zeros(1, dtype=torch.int32, device="cuda")
    _embedding(folder)(1, table, ids, torch.zeros(1, WIDTH, device="cuda"))


PLANTED = {"memcheck": outside, "initcheck": unwritten}
"""By the tool that must find it."""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as found:
        PLANTED[sys.argv[1]](Path(found))
        torch.cuda.synchronize()
