"""Slots of keys that a step copies once a layer has written them: on a device a launch a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...codegen.addresses import values_of
from .library import Launch

COPIED = ("from_page", "from_row", "to_page", "to_row")
"""The lists [X] of what is copied; a page of -1 is none."""

_NONE = np.zeros((4, 0), np.int32)


class SlotCopies:
    """Puts the copies of a step among its launches.

    `pools` are k and v [layers, N, K, P, C], with rows of whole 32-bit numbers.
    """

    def __init__(self, pools: Sequence[Tensor], launch: Callable[..., Any]) -> None:
        self._pools = [*zip(*(pool.view(torch.int32) for pool in pools), strict=True)]
        self._launch = launch

    def lists(self, copies: Tensor | None) -> dict[str, np.ndarray]:
        """Return the lists of a step's `copies` [2, X], slots from and to; None: empty ones."""
        found = _NONE
        if copies is not None:
            pages, rows = np.divmod(copies.numpy(), self._pools[0][0].shape[2])
            found = np.stack([pages[0], rows[0], pages[1], rows[1]])
        return dict(zip(COPIED, found, strict=True))

    def among(
        self, lists: Mapping[str, Tensor], launches: Iterable[Launch],
        writes: Iterable[int | None],
    ) -> Iterator[Launch]:  # fmt: skip
        """Yield a step's launches, and behind each that writes a layer's keys the layer's copies.

        `lists` are those on the device; `writes` says of each launch which layer's keys it writes,
        None: none.
        """
        found = [lists[name] for name in COPIED]
        same = (len(found[0]), *self._pools[0][0].shape, *found)
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


class HostSlots:
    """Puts them there in the host's memory; `pools` are k and v, each [N, K, P, C] a layer."""

    def __init__(self, pools: Sequence[Sequence[Tensor]]) -> None:
        self._layers = [tuple(map(_by_slot, pair)) for pair in zip(*pools, strict=True)]

    def among(
        self, copies: Tensor, launches: Sequence[Launch], writes: Sequence[int | None]
    ) -> list[Launch]:
        """Return a step's launches, of which those that write a layer's keys also copy its slots.

        `copies` [2, X]: from and to; `writes` as above.
        """
        source, target = (np.divmod(slots, self._page) for slots in copies.numpy())
        return [
            launch if layer is None
            else (_write_and_copy, (launch, self._layers[layer], source, target))
            for launch, layer in zip(launches, writes, strict=True)
        ]  # fmt: skip

    @property
    def _page(self) -> int:
        return self._layers[0][0].shape[1]


def _by_slot(pool: Tensor) -> np.ndarray:
    """Return a layer's keys or values as bytes [N, P, K, C bytes]."""
    return pool.view(torch.uint8).numpy().transpose(0, 2, 1, 3)


def _write_and_copy(
    write: Launch, pools: tuple[np.ndarray, ...], source: tuple[np.ndarray, ...],
    target: tuple[np.ndarray, ...],
) -> None:  # fmt: skip
    function, arguments = write
    function(*arguments)
    for pool in pools:
        pool[target] = pool[source]
