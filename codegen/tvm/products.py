"""What a matrix product in TVMScript is made of, and the sizes of a micro-kernel's block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .expressions import coerce
from .values import Access, Held

SMALL = 15
"""Vectors of 64 bytes that a local buffer may hold to stay below 1 KiB, and so in registers."""


@dataclass(frozen=True)
class Product:
    """The parts of one product: a [M, K], b by (n, k), acc [M, N], the extents, b's direction.

    `ahead(n, k)` is the text of the element of b in the loop's next round, to be prefetched.
    `lies`: b is f32 in memory, and needs no more than a load. `left` names a, and the product's
    region.
    """

    a: Held
    b: Held
    acc: Held
    m: int
    n: int
    k: int
    along_k: bool
    ahead: Callable[[str, str], str] | None = None
    lies: bool = False
    left: tuple[str, int] | None = None

    def a_at(self, m: str, k: str, lane: str) -> str:
        """Return an element of a as f32."""
        return coerce(self.a.typed([m, k], Access(lane=lane)), "f32")

    def b_at(self, n: str, k: str, lane: str) -> str:
        """Return an element of b as f32."""
        return coerce(self.b.typed([n, k], Access(lane=lane)), "f32")


def wide_block(m: int, vectors: int, most: int) -> tuple[int, int]:
    """Return rows and vectors of a block of at most so many that reads rows of b from end to end,
    if it can."""
    wide = max(v for v in range(1, min(vectors, 8, most) + 1) if vectors % v == 0)
    room = most // wide
    return max(r for r in range(1, min(m, 8, room) + 1) if m % r == 0), wide


def block(m: int, n: int, limit: int, most: int) -> tuple[int, int]:
    """Return a micro-kernel's rows and columns, up to `most` results: divisors of m and n that load
    the least."""
    best, shape = 0.0, (1, 1)
    for rows in (r for r in range(1, min(m, 8) + 1) if m % r == 0):
        for columns in (c for c in range(1, min(n, limit) + 1) if n % c == 0):
            worth = rows * columns / (rows + columns)
            if rows * columns <= most and worth > best + 1e-9:
                best, shape = worth, (rows, columns)
    return shape
