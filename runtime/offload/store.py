"""Host memory that several executors of one model share: all pages, pinned once, and keys.

A model of tens of gigabytes is loaded and pinned once, and then run under many policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.model import ModelConfig
from ..devices.streams import OffloadDevice, mapped
from ..execution.dtypes import TORCH
from ..execution.executor import PAGE_SIZE
from .pages import PageShape, Pool, pool_bytes, pool_in

Fill = Callable[[int, int, Mapping[str, Tensor]], None]
"""Fills the parts of a page of (layer, page)."""


@dataclass(frozen=True)
class HostStore:
    """Every page of a model, each with its own memory, and keys and values [L, N, K, P, C]."""

    pool: Pool
    places: Mapping[tuple[int, int], int]
    k: Tensor
    v: Tensor
    owner: OffloadDevice
    """Has pinned the memory, and lets go of it with `close`."""
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        config: ModelConfig,
        shape: PageShape,
        num_pages: int,
        device: OffloadDevice,
        fill: Fill,
        key_format: str = "f32",
        slices: int = 1,
    ) -> HostStore:
        """Take and pin the memory on a device, and fill every page, `slices` an expert."""
        keys = [(i, p) for i in range(config.layers) for p in range(config.experts * slices)]
        refused: list[str] = []

        def pinned(size: int) -> Tensor:
            buffer = mapped(size)
            buffer.zero_()  # by all threads: pinning takes pages one by one
            refused.append(device.register(buffer))
            return buffer

        pool = pool_in(pinned(pool_bytes(shape, len(keys))), shape, len(keys))
        places = {key: number for number, key in enumerate(keys)}
        for key, place in places.items():
            fill(*key, pool.page(place))
        sizes = (config.layers, num_pages, config.kv_heads, PAGE_SIZE, config.head_dim)
        dtype = TORCH[key_format]
        k, v = (
            pinned(torch.Size(sizes).numel() * dtype.itemsize).view(dtype).view(sizes) for _ in "kv"
        )
        notes = dict.fromkeys(f"host memory stays pageable: {why}" for why in refused if why)
        return HostStore(pool, places, k, v, device, tuple(notes))
