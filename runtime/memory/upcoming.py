"""The prompts that open and waiting rows will send: what decides which KV is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

MOST_ROWS = 16
"""How many rows that have not started are looked at."""

KnownPrompts = Callable[[Mapping[str, Any]], list[tuple[int, ...]]]
"""The ids with which the prompts of a row begin, from its arguments, in the order of its calls."""


@dataclass(eq=False)
class Prompt:
    """The ids with which a prompt begins, as bytes to compare them by, and themselves."""

    name: bytes
    ids: np.ndarray
    place: tuple[Any, int] | None = None
    """Where in the prefix tree they were found last."""
    end: tuple[Any, int, int | None] | None = None
    """The last node of the prefix tree on their way, where that ends, and which id follows."""


class UpcomingRows:
    """The prompts of a session's open rows, all read soon, and of the next rows in their order."""

    def __init__(self, known: KnownPrompts | None = None) -> None:
        self.version = 0
        self.waiting: Iterable[tuple[int, Mapping[str, Any]]] = ()
        self._known = known
        self._open: dict[int, Mapping[str, Any]] = {}
        self._cache: dict[int, tuple[Mapping[str, Any], list[Prompt]]] = {}

    def opened(self, arguments: Mapping[str, Any]) -> None:
        """A row with these arguments has started."""
        self._open[id(arguments)] = arguments
        self.version += 1

    def closed(self, arguments: Mapping[str, Any]) -> None:
        """The row has ended: nothing reads its prompts for its sake any more."""
        self._open.pop(id(arguments), None)
        self._cache.pop(id(arguments), None)
        self.version += 1

    def none_waits(self) -> None:
        """No row is left to start: what was found of those that never did is forgotten."""
        self.waiting = ()
        self._cache = {row: known for row, known in self._cache.items() if row in self._open}
        self.version += 1

    def prompts(self) -> Iterator[tuple[int, np.ndarray, Prompt]]:
        """Yield when a prompt is sent, 0 for open rows, the ids with which it begins, and itself.

        What several rows send stands once, where it is sent first.
        """
        if self._known is None:
            return
        seen: set[bytes] = set()
        ahead = (arguments for _, arguments in islice(self.waiting, MOST_ROWS))
        rows = chain(((0, row) for row in self._open.values()), enumerate(ahead, 1))
        for when, arguments in rows:
            for prompt in self._of(self._known, arguments):
                if prompt.name not in seen:
                    seen.add(prompt.name)
                    yield when, prompt.ids, prompt

    def _of(self, known: KnownPrompts, arguments: Mapping[str, Any]) -> list[Prompt]:
        entry = self._cache.get(id(arguments))
        if entry is None:
            prompts = [np.array(ids, np.int32) for ids in _longest(known(arguments))]
            named = [Prompt(ids.tobytes(), ids) for ids in prompts]
            entry = self._cache[id(arguments)] = arguments, named
        return entry[1]


def _longest(prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Leave out what another prompt begins with."""
    ordered = sorted(set(prompts))
    following = [*ordered[1:], ()]
    return [ids for ids, after in zip(ordered, following, strict=True) if after[: len(ids)] != ids]
