"""Slots of keys that a step copies on a device once a layer has written them: a launch a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codegen.addresses import values_of
from .library import Launch
from .staging import Layout, Staging

LISTS = ("from_page", "from_row", "to_page", "to_row")


class SlotCopies:
    """Puts the copies of a step among its launches.

    `k` and `v` are [layers, N, K, P, C], with rows of whole 32-bit numbers; `most` copies are asked
    for at most in one step.
    """

    def __init__(self, k: Tensor, v: Tensor, launch: Callable[..., Any], most: int) -> None:
        self._pools = [*zip(*(pool.view(torch.int32) for pool in (k, v)), strict=True)]
        self._launch = launch
        self._staging = Staging(Layout.of((name, most) for name in LISTS).end, k.device)

    def among(
        self, copies: Tensor, launches: Iterable[Launch], writes: Iterable[int | None]
    ) -> Iterator[Launch]:
        """Yield a step's launches, and behind each that writes a layer's keys the layer's copies.

        `copies` [2, X] are slots from and to; `writes` says of each launch which layer's keys it
        writes, None: none.
        """
        size, count = self._pools[0][0].shape[2], copies.shape[1]
        places = np.divmod(copies.numpy(), size)
        layout = Layout.of((name, count) for name in LISTS)
        buffer = self._staging.open()
        arrays = (places[0][0], places[1][0], places[0][1], places[1][1])
        for (at, _), array in zip(layout.places.values(), arrays, strict=True):
            buffer[at : at + count] = array
        self._staging.send(layout.end)
        same = (count, *self._pools[0][0].shape, *layout.views(self._staging.device).values())
        known, addressed = values_of(same), getattr(self._launch, "addressed", None)
        for launch, layer in zip(launches, writes, strict=True):
            yield launch
            if layer is not None:
                pools = self._pools[layer]
                if addressed is None:
                    yield self._launch, (*same, *pools)
                else:
                    values, kinds = values_of(pools)
                    named = [*known[0], *values], (*known[1], *kinds)
                    yield addressed, (*named, partial(tuple, (*same, *pools)))
