"""How many calls a program makes of an endpoint, and which of them run side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ....ir.core import Operation, Region
from ....ir.numbers import is_int
from ...manager import Context

_CALLS = frozenset({"program.gen", "program.select", "program.score"})

Place = tuple[str, ...]
"""The forks and loops that a call stands in, in words, outermost first."""


def describe_calls(functions: tuple[Operation, ...], context: Context) -> None:
    """Remark, for each program, on its calls: how many, where, and what waits for what."""
    for function in functions:
        counts = _Counts()
        counts.region(function.regions[0], ())
        name = function["name"].name
        context.did(f"program {name}: {counts.text()}", function.span)


class _Counts:
    """The calls of one program by place."""

    def __init__(self) -> None:
        self._calls: Counter[Place] = Counter()
        self._saved: Counter[Place] = Counter()
        self._widths: dict[str, int] = {}
        self._parallel: list[str] = []

    def region(self, region: Region, place: Place) -> None:
        """Count the calls of a region; gens that share a call count once."""
        shared = 0
        for operation in region.operations:
            if operation.name == "program.constant":
                self._width(operation)
            elif operation.name == "program.list":
                self._widths[operation.result.name] = len(operation.operands)
            elif operation.name == "program.gen" and shared:
                shared -= 1
                self._saved[place] += 1
            elif operation.name in _CALLS:
                self._calls[place] += 1
                shared = operation.attribute("ahead") or 0
            elif operation.name == "program.call":
                self._calls[(*place, f"what program {operation['name'].name} makes")] += 1
            else:
                self._inner(operation, place)

    def _inner(self, operation: Operation, place: Place) -> None:
        kind = operation.name.partition(".")[2]
        if kind == "fork":
            label = f"branch of fork {operation['name']!r}{self._times(operation.operands[1])}"
            self._parallel.append(label)
            self.region(operation.regions[0], (*place, f"each {label}"))
        elif kind == "for":
            times = self._times(operation.operands[0])
            self.region(operation.regions[0], (*place, f"each round of a for{times}"))
        elif kind == "while":
            for region in operation.regions:
                self.region(region, (*place, f"each of up to {operation['limit']} rounds"))
        elif kind == "if":
            for region, when in zip(operation.regions, ("if so", "if not"), strict=True):
                self.region(region, (*place, f"{when} (line {_line(operation)})"))
        else:
            for region in operation.regions:
                self.region(region, place)

    def text(self) -> str:
        """Return the count in words."""
        if not self._calls:
            return "no calls"
        parts = [_part(place, count) for place, count in self._calls.items()]
        text = ", ".join(parts)
        if self._saved:
            saved = sum(self._saved.values())
            said = "1 more gen shares" if saved == 1 else f"{saved} more gens share"
            text += f"; {said} a call where the answer allows"
        if self._parallel:
            text += f"; side by side: the calls of each {', of each '.join(self._parallel)}"
        return text

    def _width(self, constant: Operation) -> None:
        value: Any = constant.attribute("value")
        if is_int(value):
            self._widths[constant.result.name] = value
        elif isinstance(value, tuple):
            self._widths[constant.result.name] = len(value)

    def _times(self, value: Any) -> str:
        width = self._widths.get(value.name)
        return "" if width is None else f" ({width} times)"


def _part(place: Place, count: int) -> str:
    calls = f"{count} call{'s' * (count != 1)}"
    if not place:
        return calls
    if place[-1].startswith("what program"):
        where = f" in {' in '.join(reversed(place[:-1]))}" if place[:-1] else ""
        return f"{place[-1]}{f' ({count} times)' if count > 1 else ''}{where}"
    return f"{calls} in {' in '.join(reversed(place))}"


def _line(operation: Operation) -> int:
    return operation.span.line if operation.span else 0
