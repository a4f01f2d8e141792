"""Lines of TVMScript, and the loop nests that visit the elements of a tile, vectorised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product

from .expressions import TVM_DTYPES
from .values import Access, scaled

Visit = Callable[[Sequence[str], Access], list[str]]
"""Writes the statements for one element (or one vector of elements) at some indices."""


class Writer:
    """Collects indented lines and hands out names that the text has not used."""

    def __init__(self, vector: int, unroll: int, taken: set[str]) -> None:
        self.lines: list[str] = []
        self.vector = vector
        self.unroll = unroll
        self._taken = set(taken)
        self._depth = 0

    def line(self, text: str) -> None:
        """Write one statement."""
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write a statement with a body."""
        self.line(head)
        self._depth += 1
        start = len(self.lines)
        yield
        if len(self.lines) == start:
            self.line("T.evaluate(0)")
        self._depth -= 1

    def fresh(self, hint: str) -> str:
        """Return an unused name."""
        name, number = hint, 0
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name

    def allocate(self, hint: str, shape: Sequence[int], dtype: str) -> str:
        """Allocate a local buffer. Those below 1 KiB can live in registers."""
        name = self.fresh(hint)
        extents = ", ".join(str(extent) for extent in shape) or "1"
        comma = "," if len(shape) < 2 else ""
        self.line(f'{name} = T.alloc_buffer(({extents}{comma}), "{TVM_DTYPES[dtype]}")')
        return name

    @contextmanager
    def loop(self, extent: int | str, hint: str = "i", kind: str = "serial") -> Iterator[str]:
        """Open a loop over `extent` and give its index; an extent of one needs no loop."""
        if extent == 1:
            yield "0"
            return
        index = self.fresh(hint)
        with self.block(f"for {index} in T.{kind}({extent}):"):
            yield index

    @contextmanager
    def loops(self, shape: Sequence[int]) -> Iterator[list[str]]:
        """Open a serial loop for each extent."""
        if not shape:
            yield []
            return
        with self.loop(shape[0]) as index, self.loops(shape[1:]) as rest:
            yield [index, *rest]


def lanes_for(extent: int, vector: int) -> int:
    """Return how many lanes to use along an axis: a power of two that divides it, or 1."""
    lanes = vector
    while lanes > 1 and extent % lanes:
        lanes //= 2
    return lanes if lanes >= min(4, extent) else 1


def elementwise(out: Writer, shape: Sequence[int], visit: Visit) -> None:
    """Visit every element of a tile, lanes of the last axis together.

    A vector that masks cut into is visited one element at a time.
    """
    if not shape:
        write(out, visit([], Access(honour=True)))
        return
    lanes = lanes_for(shape[-1], out.vector)
    with out.loops(shape[:-1]) as outer:
        if lanes == 1:
            with out.loop(shape[-1]) as last:
                write(out, visit([*outer, last], Access(honour=True)))
            return
        with out.loop(shape[-1] // lanes, "c") as chunk:
            _vector(out, outer, chunk, lanes, visit)


def _vector(out: Writer, outer: list[str], chunk: str, lanes: int, visit: Visit) -> None:
    first, last = scaled(chunk, lanes), scaled(chunk, lanes, str(lanes - 1))
    condition = corner_masks(visit, [[index] for index in outer] + [[first, last]])

    def fast() -> None:
        lane = out.fresh("l")
        with out.block(f"for {lane} in T.vectorized({lanes}):"):
            write(out, visit([*outer, scaled(chunk, lanes, lane)], Access(lane=lane)))

    def slow() -> None:
        with out.loop(lanes, "s") as lane:
            write(out, visit([*outer, scaled(chunk, lanes, lane)], Access(honour=True)))

    versioned(out, condition, fast, slow)


def versioned(
    out: Writer, condition: str | None, fast: Callable[[], None], slow: Callable[[], None]
) -> None:
    """Write the fast form under a condition and the slow one otherwise; "" always, None never."""
    if condition is None:
        slow()
    elif condition == "":
        fast()
    else:
        with out.block(f"if {condition}:"):
            fast()
        with out.block("else:"):
            slow()


def corner_masks(visit: Visit, sides: Sequence[Sequence[str]]) -> str | None:
    """Return the condition under which every mask holds in a box: "" if there is no mask.

    `sides` gives the first and last index of each axis. None: corners do not tell.
    """
    access = Access()
    for corner in product(*sides):
        visit(list(corner), access)
    if not access.masks:
        return ""
    return None if access.opaque else conjunction(access.masks)


def conjunction(masks: Sequence[str]) -> str:
    """Return the conjunction of conditions, each once."""
    text = ""
    for mask in dict.fromkeys(masks):
        text = mask if not text else f"T.And({text}, {mask})"
    return text


def write(out: Writer, lines: list[str]) -> None:
    """Write prepared lines at the present depth."""
    for line in lines:
        out.line(line)
