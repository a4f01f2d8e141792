"""Values that are still being computed: tasks go on without them, and wait where they need them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, slots=True)
class Spawn:
    """A coroutine to run beside its parent, which goes on at once with a `Later`.

    The coroutine runs up to its first wait before the parent goes on, so that what it takes note
    of at its start (which occurrence of a gen it is) is in the order of the program.
    """

    coroutine: Generator[Any, Any, Any]


class Later:
    """A value that a task will give; a coroutine that yields it is resumed when it is there."""

    __slots__ = ("_value", "links", "ready", "waiting")

    def __init__(self, links: int = 0) -> None:
        self.ready = False
        self.links = links
        """How many values, each of which comes of the one before at once, stand before it."""
        self.waiting: list[Callable[[], None]] = []
        self._value: Any = None

    def settle(self, value: Any = None) -> None:
        """Give the value; whoever waits goes on, first come first."""
        self.ready, self._value = True, value
        waiting, self.waiting = self.waiting, []
        for wake in waiting:
            wake()

    @property
    def value(self) -> Any:
        """The value, which must be there."""
        assert self.ready
        return self._value


@dataclass(eq=False, slots=True)
class Part:
    """One element of a value that is still being computed."""

    whole: Later
    index: int

    @property
    def ready(self) -> bool:
        """Whether the value is there."""
        return self.whole.ready

    @property
    def value(self) -> Any:
        """The value, which must be there."""
        return self.whole.value[self.index]


STANDS_IN = (Later, Part)
"""A tuple, as `Later | Part` would be made at every call."""


def present(value: Any) -> Any:
    """Return a value if it is there, and else what stands for it."""
    while isinstance(value, STANDS_IN) and value.ready:
        value = value.value
    return value


def is_missing(value: Any) -> bool:
    """Whether a value is not there yet."""
    return isinstance(present(value), STANDS_IN)


def now(value: Any) -> Generator[Any, Any, Any]:
    """Wait for a value, if it is not there."""
    value = present(value)
    while isinstance(value, STANDS_IN):
        yield value if isinstance(value, Later) else value.whole
        value = present(value)
    return value


def all_now(values: Iterable[Any]) -> Generator[Any, Any, list[Any]]:
    """Wait for all of some values."""
    found = []
    for value in values:
        found.append((yield from now(value)))
    return found


LINKS = 32
"""Values at most of which each comes of the one before in the same call: it is a deeper one."""


def links_of(values: Iterable[Any]) -> int:
    """Return how many links the longest chain of some values has."""
    missing = (value for value in map(present, values) if isinstance(value, STANDS_IN))
    return max((_whole(value).links for value in missing), default=0)


def when_there(values: list[Any], then: Callable[[list[Any]], None]) -> None:
    """Call `then` with some values as soon as all are there; it must not fail."""

    def look() -> None:
        for at, value in enumerate(values):
            value = values[at] = present(value)
            if isinstance(value, STANDS_IN):
                _whole(value).waiting.append(look)
                return
        then(values)

    look()


def _whole(value: Later | Part) -> Later:
    return value if isinstance(value, Later) else value.whole


def any_of(values: Iterable[Later]) -> Later:
    """Return what is there as soon as one of some values is."""
    first = Later()

    def wake() -> None:
        if not first.ready:
            first.settle()

    for value in values:
        if value.ready:
            wake()
        else:
            value.waiting.append(wake)
    return first
