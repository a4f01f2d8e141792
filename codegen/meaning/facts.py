"""Launch facts (`requires` of a kernel), checked against actual arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.core import Operation
from ...ir.diagnostics import KernelError
from ...ir.expression import names, offsets, read
from .evaluate import Evaluator


class BrokenFact(KernelError):
    """A launch that breaks what the kernel requires."""

    template = "@{kernel} requires {fact}, which these arguments break"
    hint = "the kernel's bounds are proven from this fact: the caller must guarantee it"


def check_facts(kernel: Operation, scalars: dict[str, Any], buffers: dict[str, Any]) -> None:
    """Check every fact of `requires`; raises KernelError for the first that fails."""
    for fact in kernel.attribute("requires", ()):
        if not holds(fact, scalars, buffers):
            raise BrokenFact(kernel=kernel["name"].name, fact=repr(fact))


def holds(fact: str, scalars: dict[str, Any], buffers: dict[str, Any]) -> bool:
    """Return whether a fact holds; `x[*]` is every element, `x[i]` one for every i that fits."""
    variables = dict(scalars)
    if "i" in names(fact) and "i" not in scalars:
        variables["i"] = _range(offsets(fact), buffers)
    return bool(np.all(read(fact, Evaluator(variables, np.float64, buffers))))


def _range(used: list[tuple[str, int]], buffers: dict[str, Any]) -> np.ndarray:
    """Return the values of `i` for which every `x[i + offset]` is inside its buffer."""
    low = max((-offset for _, offset in used), default=0)
    high = min((len(buffers[name]) - offset for name, offset in used), default=0)
    return np.arange(max(low, 0), max(high, low, 0))
