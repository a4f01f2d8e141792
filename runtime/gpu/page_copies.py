"""Pages that are to be copied on a device before its next step: many in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..devices.staging import Layout, Staging

BLOCK = 256
"""Integers that the kernel copies in a row; see `copy_pages` of passes/tile/rows/feed.py."""

MOST = 1024
"""Copies that wait at most."""


class PageCopies:
    """Copies that wait; `flush` does them all, and the outcome is that of the order asked for.

    `pools` are [layers, N, K, P, C], contiguous. A copy one by one is a launch or more a layer: a
    step that begins with a hundred would fill the device's queue, and the host would wait.
    """

    def __init__(self, pools: Sequence[Tensor], launch: Callable[..., Any]) -> None:
        self._pools, self._launch = pools, launch
        layers, pages = pools[0].shape[:2]
        numbers = pools[0].nbytes // (layers * pages * 4)
        self._extents = (layers, pages, numbers // BLOCK)
        self._views: list[Tensor] = []
        if numbers % BLOCK == 0:
            shape = (*self._extents, BLOCK)
            self._views = [pool.view(-1).view(torch.int32).view(shape) for pool in pools]
        self._staging = Staging(2 * MOST, pools[0].device)
        self._waiting: dict[int, int] = {}
        self._sources: set[int] = set()

    def add(self, source: int, target: int) -> None:
        """Ask for a copy. A copy of what is itself to be copied takes it from where that comes
        from, so that a chain of rows that begin alike is still one launch; those that wait are
        done first where this one would overwrite what they read."""
        source = self._waiting.get(source, source)
        if target in self._sources or len(self._waiting) == MOST:
            self.flush()
        if source != target:
            self._waiting[target] = source
            self._sources.add(source)

    def flush(self) -> None:
        """Launch what waits."""
        waiting, self._waiting = [(s, t) for t, s in self._waiting.items()], {}
        self._sources.clear()
        if not waiting:
            return
        if not self._views:
            for source, target in waiting:
                for pool in self._pools:
                    pool.select(1, target).copy_(pool.select(1, source))
            return
        layout = Layout.of([("source", len(waiting)), ("target", len(waiting))])
        buffer = self._staging.open()
        for name, values in zip(layout.places, zip(*waiting, strict=True), strict=True):
            at, size = layout.places[name]
            buffer[at : at + size] = values
        self._staging.send(layout.end)
        lists = layout.views(self._staging.device).values()
        for pool in self._views:
            self._launch(len(waiting), *self._extents, *lists, pool)
