"""How the TVM emitter holds values: as scalars, as functions of indices, or in local buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .expressions import Typed


@dataclass
class Access:
    """One evaluation of held values at some indices.

    `honour` reads masked loads conditionally; without it masks are only collected in `masks`, and
    `opaque` tells that some mask is not known to hold in a box when it holds at its corners.
    `lane` is the vectorised index variable, if any.
    """

    honour: bool = False
    lane: str = ""
    masks: list[str] = field(default_factory=list)
    opaque: bool = False


At = Callable[[Sequence[str], Access], str]


@dataclass(frozen=True)
class Held:
    """A value: its dtype as computed, its shape, and its text at given indices."""

    dtype: str
    shape: tuple[int, ...]
    at: At
    buffer: str | None = None

    def typed(self, indices: Sequence[str], access: Access) -> Typed:
        """Return the element at indices of a shape that this value broadcasts to."""
        return Typed(self.at(broadcast(indices, self.shape), access), self.dtype)


def scalar(text: str, dtype: str) -> Held:
    """Return a scalar of the given text."""
    return Held(dtype, (), lambda indices, access: text)


def stored(buffer: str, dtype: str, shape: tuple[int, ...]) -> Held:
    """Return a value that lies in a local buffer; a scalar's buffer has one element."""

    def at(indices: Sequence[str], access: Access) -> str:
        return f"{buffer}[{', '.join(indices) or '0'}]"

    return Held(dtype, shape, at, buffer)


def broadcast(indices: Sequence[str], shape: tuple[int, ...]) -> list[str]:
    """Return the indices into a value of `shape` that broadcasts to a longer or wider shape."""
    tail = indices[len(indices) - len(shape) :]
    return ["0" if extent == 1 else index for index, extent in zip(tail, shape, strict=True)]


def scaled(index: str, factor: int, offset: str = "") -> str:
    """Return the text of `index * factor + offset`, without the parts that do nothing."""
    if index == "0" or factor == 0:
        return offset or "0"
    base = index if factor == 1 else f"{index} * {factor}"
    return f"{base} + {offset}" if offset and offset != "0" else base


def grouped(text: str) -> str:
    """Return a text in parentheses, unless it is a single word."""
    return f"({text})" if " " in text else text
