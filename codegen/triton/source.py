"""The text of an emitted file, and what it is launched with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ...ir.schedule import Schedule


@dataclass(frozen=True)
class TritonSource:
    """A Triton file: the kernel's name, its text, and the module name that its content gives."""

    name: str
    text: str

    @property
    def module(self) -> str:
        """A file name that changes with the text, so that Triton's own cache cannot be stale."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"weft_{self.name}_{digest}"


def launch_options(schedule: Schedule) -> dict[str, int | bool]:
    """Return what a launch under a schedule tells Triton beside the arguments, in order; of
    specialised warps those of the first part."""
    options: dict[str, int | bool] = {
        "num_warps": 4 if schedule.specialised else schedule.num_warps
    }
    options |= {} if schedule.specialised else {"num_stages": schedule.num_stages}
    options |= {"launch_pdl": True} if schedule.chained else {}
    registers = schedule.specialised or schedule.registers
    return options | ({"maxnreg": registers} if registers else {})
