"""The order in which rows start: those whose prompts begin alike follow each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from .forecast import FRESH, Forecast

PREPARED = 64
"""Rows at most whose prompts are encoded at once."""

FIRST_FRESH = 1 << 12
"""Characters that are encoded before anything is computed; then twice as many, up to `FRESH`."""

SHARED = 64
"""Characters, about a page of tokens, from which prompts count as beginning alike."""


class in_prefix_order(Iterator[tuple[int, Any]]):  # noqa: N801
    """Yields jobs so that those whose prompts begin alike follow each other; looks `window` ahead.

    Jobs that have fewer than `shared` characters in common stay in their order: a page that is not
    computed twice is worth another order, a few tokens are not. Each window is given out whole
    before the next is read, so that no job waits for ever. `ahead` are the jobs of the window that
    are still to come; `more`: others may come behind these.
    """

    def __init__(
        self, jobs: Iterable[tuple[int, Any]], forecast: Forecast, window: int, shared: int = SHARED
    ) -> None:
        self.ahead: deque[tuple[int, Any]] = deque()
        self.more = True
        self._jobs, self._forecast, self._window = iter(jobs), forecast, window
        self._shared = shared
        self._prepared, self._fresh = 0, FIRST_FRESH

    def __next__(self) -> tuple[int, Any]:
        if not self.ahead:
            self.ahead.extend(self._grouped(islice(self._jobs, self._window)))
            self.more, self._prepared = len(self.ahead) == self._window, 0
        if not self.ahead:
            raise StopIteration
        if not self._prepared:
            some = list(islice(self.ahead, PREPARED))
            rows = (arguments for _, arguments in some)
            self._prepared = self._forecast.prepare(rows, self._fresh)
            self._fresh = min(FRESH, 2 * self._fresh)
        self._prepared -= 1
        return self.ahead.popleft()

    def _grouped(self, jobs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yield jobs by what they share, groups in the order of their first job."""
        groups: dict[str, list[tuple[tuple[str, ...], int, Any]]] = {}
        for number, arguments in jobs:
            beginning = self._forecast.beginning(arguments)
            start = "\0".join(text[: self._shared] for text in beginning)[: self._shared]
            group = groups.setdefault(start, [])
            group.append((beginning, number, arguments))
        for group in groups.values():
            group.sort(key=lambda job: job[:2])
            yield from ((number, arguments) for _, number, arguments in group)
