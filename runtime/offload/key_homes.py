"""Where pages of keys and values lie: in host memory, or a share of them on the device for good."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyHomes:
    """Pools of pages, [L, H, K, P, C] in host memory and [L, G, K, P, C] on the device.

    Of all H + G pages every so many-th is on the device, so that any run of pages, and so every
    micro-batch, has the same share of them there.
    """

    host: tuple[Tensor, Tensor]
    device: tuple[Tensor, Tensor] | None = None

    @property
    def on_device(self) -> int:
        """G, the pages on the device."""
        return 0 if self.device is None else self.device[0].shape[1]

    @property
    def count(self) -> int:
        """All pages."""
        return self.host[0].shape[1] + self.on_device

    def find(self, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Return which pages [n] are on the device [n] bool, and where in their pool [n] i64."""
        pages = pages.long()
        before = pages * self.on_device // max(self.count, 1)
        mask = (pages + 1) * self.on_device // max(self.count, 1) > before
        return mask, torch.where(mask, before, pages - before)

    def copy(self, source: int, target: int) -> None:
        """Copy a page of all layers."""
        masks, places = self.find(torch.tensor([source, target]))
        for number, host in enumerate(self.host):
            views = []
            for there, place in zip(masks.tolist(), places.tolist(), strict=True):
                pool = self.device[number] if there and self.device is not None else host
                views.append(pool.select(1, place))
            views[1].copy_(views[0])


def kept_on_device(pages: int, share: float) -> int:
    """Return how many of so many pages a share of them is; never more than the share."""
    return int(pages * share)
