"""How often each expert is used: which experts are cold, and may go to the CPU at less cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...ir.diagnostics import ModelError, reason
from ...ir.offload.routing import RoutingTrace
from ..json_text import value_of
from .shape import MoeShape

CLASSES = 8
"""Experts are grouped by rank into so many classes at the most."""


_MOST = 2**53
"""A larger count is none: sums of such still are numbers."""


class BadPopularity(ModelError):
    """Counts of experts' use that do not fit the model, or are no counts."""

    template = "popularity of experts: {problem}"
    hint = (
        "a JSON list for each layer (or one for all), with a number for each expert; or a trace of "
        "weft run --record-routing"
    )


@dataclass(frozen=True)
class Popularity:
    """The share of routed pairs that each expert of each layer serves; a layer's sum is 1."""

    shares: tuple[tuple[float, ...], ...]

    @property
    def experts_of(self) -> tuple[tuple[int, ...], ...]:
        """Each layer's experts, the most used first: a class's pages follow each other."""
        return tuple(
            tuple(sorted(range(len(layer)), key=lambda expert: -layer[expert]))
            for layer in self.shares
        )

    @property
    def classes(self) -> tuple[tuple[int, float], ...]:
        """Classes of experts by rank: members, and one's mean share over members and layers."""
        experts = len(self.shares[0])
        ranked = [sorted(layer, reverse=True) for layer in self.shares]
        count = min(CLASSES, experts)
        bounds = [experts * number // count for number in range(count + 1)]
        made = []
        for low, high in zip(bounds, bounds[1:], strict=False):
            total = sum(sum(layer[low:high]) for layer in ranked)
            made.append((high - low, total / (len(ranked) * (high - low))))
        return tuple(made)


def popularity(counts: Sequence[Sequence[float]], layers: int, experts: int) -> Popularity:
    """Return shares from counts; one list stands for every layer; raises BadPopularity."""
    if len(counts) not in (1, layers):
        raise BadPopularity(problem=f"{len(counts)} layers are listed, the model has {layers}")
    made = []
    for number, layer in enumerate(counts):
        if len(layer) != experts:
            problem = f"layer {number} lists {len(layer)} experts, the model has {experts}"
            raise BadPopularity(problem=problem)
        if not all(0 <= each <= _MOST for each in layer) or not any(layer):
            raise BadPopularity(problem=f"layer {number} has a count that is none, or only zeros")
        total = float(sum(layer))
        made.append(tuple(each / total for each in layer))
    return Popularity(tuple(made) * (layers if len(made) == 1 else 1))


def read(file: Path, shape: MoeShape) -> Popularity:
    """Return the popularity that a routing trace or a JSON file gives; raises BadPopularity and
    BadRouting."""
    try:
        if not RoutingTrace.is_one(file):
            return parse(file.read_text(encoding="utf-8"), shape.layers, shape.experts)
    except BadPopularity as error:
        raise BadPopularity(problem=f"{file}: {error.fields['problem']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadPopularity(problem=f"{file} cannot be read: {reason(error)}") from None
    trace = RoutingTrace.load(file).check(str(file), shape.layers, shape.experts, shape.top_k)
    return popularity(trace.counts(), shape.layers, shape.experts)


def parse(text: str, layers: int, experts: int) -> Popularity:
    """Return the popularity that a JSON text gives; raises BadPopularity."""

    def refused(where: str, problem: str) -> BadPopularity:
        return BadPopularity(problem=f"{where}: {problem}")

    value = value_of(text, refused)
    rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    number = (int, float)
    if not all(
        isinstance(row, list)
        and all(isinstance(x, number) and not isinstance(x, bool) for x in row)
        for row in rows
    ):
        raise BadPopularity(problem=f"expected lists of numbers, found {text!r:.60}")
    return popularity(rows, layers, experts)
