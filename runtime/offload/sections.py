"""Sections of a partitioned step made ready for launching: each writes where its caller says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.core import Operation, Term
from ...ir.types import dtype_of, shape_of
from ..execution.dtypes import TORCH
from ..execution.recipe import Memory, Recipe
from ..execution.weights import Weight

OUT = "out."
"""How the names of results begin among a section's inputs: `out.x` is where x is written."""


class SectionRecipe(Recipe):
    """A section's calls; pages, their scales, keys and values are inputs as all else."""

    def _known(self, key: tuple[Any, ...]) -> Tensor | None:
        kind = key[0]
        if kind in {"k", "v"} or (kind == "scale" and key[1] not in self._memory.weights):
            return None
        return super()._known(key)

    def _of_step(
        self, key: tuple[Any, ...], inputs: Mapping[str, Tensor | int], extents: Mapping[str, int]
    ) -> Tensor | int | None:
        if key[0] in {"k", "v"}:
            return inputs[key[0]]
        if key[0] == "scale":
            return inputs.get(f"{key[1]}_scale")
        return super()._of_step(key, inputs, extents)


@dataclass(frozen=True)
class Lowered:
    """A section as lowering leaves it: kind, place, layer (-1: none), function, result roles.

    `weights` are those of an experts section, which come as pages.
    """

    kind: str
    place: str
    layer: int
    function: Operation
    results: tuple[str, ...]
    weights: tuple[Operation, ...] = ()


class Section:
    """One section, ready: call it with its inputs and `out.ROLE` tensors, and the extents."""

    def __init__(
        self, function: Operation, roles: tuple[str, ...], kernels: Mapping[str, Any],
        weights: Mapping[str, Weight], tables: Mapping[str, Tensor], arena: Tensor,
        convert: Callable[[Tensor], Any], scratch: Tensor | None = None,
    ) -> None:  # fmt: skip
        memory = Memory(kernels, weights, [], [], tables, arena, convert, scratch=scratch)
        self._recipe = SectionRecipe(function, memory, [OUT + role for role in roles])
        region = function.regions[0]
        self.inputs = tuple(value.name for value in region.arguments)
        self.roles = roles
        self.types = {v.name: v.type for v in region.arguments}
        self.types |= dict(zip(roles, (v.type for v in region.operations[-1].operands),
                               strict=True))  # fmt: skip

    def __call__(self, inputs: Mapping[str, Tensor | int], extents: Mapping[str, int]) -> None:
        """Launch the section's kernels."""
        launches, _ = self._recipe.bind(inputs, extents)
        for function, arguments in launches:
            function(*arguments)


def rows_of(type: Term, extents: Mapping[str, int]) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the shape and dtype of a tensor type, its symbols as the extents say."""
    shape = [extents[d.name] if isinstance(d, Term) else d for d in shape_of(type)]
    return tuple(shape), TORCH[dtype_of(type)]
