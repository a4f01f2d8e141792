"""Tile IR to Triton: one kernel and its schedule become the text of a Python file."""

from __future__ import annotations

from ...ir.core import Operation
from ...ir.schedule import Schedule
from .emitter import Emitter
from .gluon.emit import emit_gluon
from .loops import check_loops
from .source import TritonSource


def emit(kernel: Operation, schedule: Schedule | None = None) -> TritonSource:
    """Return the Triton file of a kernel: a jitted function, and `launch(*arguments)`; in Gluon, if
    its warps are to have parts of their own. Raises CannotEmit, and then NoGluon."""
    name, schedule = kernel["name"].name, schedule or Schedule()
    check_loops(kernel)
    if schedule.specialised:
        return emit_gluon(kernel, schedule)
    return TritonSource(name, Emitter(kernel, schedule).file())
