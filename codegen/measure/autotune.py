"""Chooses schedules by measuring few of them, and keeps the choices of each device in a file.

What a person or a roofline ranks first is tried first; a choice that is kept is taken as it is,
so that a compilation with a filled file is the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...ir.core import Operation
from ...ir.printer import print_operation
from ...ir.schedule import Schedule
from ..cache import KernelCache, key_of

TOP = 4
"""Schedules that are measured beside the usual one."""

GAIN = 0.03
"""Another schedule than the usual one must be faster by this share: less is noise."""


@dataclass(frozen=True)
class Choice:
    """The schedule of a kernel, its measured seconds, and those of the usual one."""

    schedule: Schedule
    seconds: float
    usual: float
    tried: int

    @property
    def gain(self) -> float:
        """The share of the usual schedule's time that it saves."""
        return 1.0 - self.seconds / self.usual if self.usual else 0.0


def search(
    usual: Schedule, ranking: Sequence[Schedule], time: Callable[[Schedule], float | None],
    top: int = TOP,
) -> Choice:  # fmt: skip
    """Measure the usual schedule and the first `top` others of a ranking; return the best.

    `time` returns a launch's seconds, or None for a schedule that does not compile.
    """
    first = time(usual)
    if first is None:
        raise ValueError("the usual schedule cannot be measured")
    best = Choice(usual, first, first, 1)
    for schedule in [each for each in ranking if each != usual][:top]:
        seconds = time(schedule)
        tried = best.tried + 1
        limit = min(best.seconds, first * (1 - GAIN))
        if seconds is not None and seconds < limit:
            best = Choice(schedule, seconds, first, tried)
        best = replace(best, tried=tried)
    return best


class Choices:
    """The kept choices of one device: `tuned/DEVICE.json` beside the compiled kernels.

    A file that is broken counts as empty; a choice is found by the kernel's whole text.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._home = KernelCache(folder / "tuned")
        self.path = folder / "tuned" / f"{key_of(device)[:16]}.json"
        self.device = device

    @cached_property
    def _known(self) -> dict[str, Any]:
        return self._read_file()

    def _read_file(self) -> dict[str, Any]:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(kept["choices"]) if kept["device"] == self.device else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def find(self, kernel: Operation) -> Choice | None:
        """Return what was chosen for a kernel, if it was."""
        if not self._known:
            return None
        kept = self._known.get(key_of(print_operation(kernel)))
        try:
            return None if kept is None else _read(kept)
        except (TypeError, ValueError, KeyError):
            return None  # of another version, or damaged

    def keep(self, kernel: Operation, choice: Choice) -> None:
        """Keep a choice, on disk too, beside those that other processes have kept since."""
        chosen = {key_of(print_operation(kernel)): asdict(choice)}
        if not self._home.writable():
            self._known = self._known | chosen
            return
        with self._home.locked([key_of(self.device)]):
            self._known = self._known | self._read_file() | chosen
            text = json.dumps({"device": self.device, "choices": self._known}, indent=1)
            self._home.write(self.path, text.encode())

    def applied(
        self, kernels: Sequence[tuple[Operation, Schedule]]
    ) -> list[tuple[Operation, Schedule]]:
        """Return kernels with the schedules that were chosen; the usual ones where none was."""
        found = [(kernel, usual, self.find(kernel)) for kernel, usual in kernels]
        return [(kernel, choice.schedule if choice else usual) for kernel, usual, choice in found]


def _read(kept: dict[str, Any]) -> Choice:
    known = {item.name for item in fields(Schedule)}
    given = dict(kept["schedule"])
    if given.keys() != known:
        raise KeyError("another version's schedule")
    given["blocks"] = tuple(tuple(pair) for pair in given["blocks"])
    return Choice(Schedule(**given), kept["seconds"], kept["usual"], kept["tried"])
