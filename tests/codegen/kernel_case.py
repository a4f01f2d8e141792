"""What a case of a small kernel is, and the numbers that its arguments are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from weft.codegen.meaning.reference import run_kernel
from weft.ir.core import Operation


@dataclass
class Case:
    """A kernel, its arguments (outputs poisoned), and what some arguments must hold after it."""

    kernel: Operation
    arguments: list[Any]
    expected: dict[str, np.ndarray]
    tolerance: float = 1e-5

    def position(self, name: str) -> int:
        names = [value.name for value in self.kernel.regions[0].arguments]
        return names.index(name)


def interpreted(kernel: Operation, arguments: list[Any]) -> list[Any]:
    """Return the arguments as they are after a kernel ran, by its meaning."""
    run_kernel(kernel, *arguments)
    return arguments


def poison(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.full(shape, np.nan if dtype == "f4" else -77, dtype)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("f4")


def bf16(values: np.ndarray) -> np.ndarray:
    """Round to bf16 by truncating to 16 bits what is exact already after masking."""
    return (values.astype("f4").view("u4") >> 16).astype("u2")


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype("u4") << 16).view("f4").astype("f8")
