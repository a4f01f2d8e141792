"""The host memory of a large random model, taken, pinned and filled once for all settings.

Every page has memory of its own: 42 GiB of experts are 42 GiB that copies really read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from weft.runtime.devices.host_room import available_bytes
from weft.runtime.offload.pages import PageShape
from weft.runtime.offload.store import HostStore
from weft.runtime.offload.stored import stored_shape
from weft.runtime.offload.twelve_bits import RARE, pack

from .runs import KEY_BYTES, Setting, key_pages, offloading

WIDTH = 4096
"""The width that packed pages are drawn for: their shape does not tell."""
SPARE = 6 << 30
"""Bytes of host memory that are left to everything else."""


class TooLittleMemory(Exception):
    """Less free host memory than pages and keys take."""


def shared_store(setting: Setting) -> HostStore:
    """Return a store with every page of a setting's model, random, and room for its keys."""
    made = offloading(replace(setting, cpu_experts=0, host_memory=0))
    config = made.checkpoint.config
    experts = next(s.weights for s in made.lowered.sections if s.kind == "experts")
    shape, count = PageShape.of(experts), key_pages(setting)
    shape = stored_shape(shape, setting.page_format)
    keys = (
        2 * KEY_BYTES[setting.kv] * config.layers * count * config.kv_heads * 16 * config.head_dim
    )
    pages = config.layers * made.policy.pages_per_layer
    need, free = shape.bytes * pages + keys, available_bytes()
    if free is not None and need + SPARE > free:
        raise TooLittleMemory(f"{need >> 30} GiB of pages and keys, {free >> 30} GiB are free")
    store = HostStore.of(config, shape, count, made.device(), random_page, setting.kv,
                         made.policy.pages_per_expert)  # fmt: skip
    page = torch.randn(config.kv_heads, 16, config.head_dim)
    store.k.copy_(page)
    store.v.copy_(page)
    return store


def store_owner(base: Setting, setting: Setting) -> Setting:
    """Return the setting whose store a setting's pages and keys lie in: the base, with its pages,
    unless its model or its sequences are others."""
    pages = {"page_format": setting.page_format, "pages_per_expert": setting.pages_per_expert}
    like = ("model", "prompt", "longest", "new", "kv")
    same = all(getattr(base, name) == getattr(setting, name) for name in like)
    return replace(base if same and setting.batch <= base.batch else setting, **pages)


def random_page(layer: int, expert: int, into: Mapping[str, Tensor]) -> None:
    """Fill a page with normal numbers, or bytes of as large a deviation, drawn on the GPU where
    there is one."""
    place = "cuda" if torch.cuda.is_available() else "cpu"
    for role, part in into.items():
        if role.endswith(RARE):
            continue
        if part.dtype == torch.int32:
            drawn = torch.randn(8 * part.shape[1], dtype=torch.bfloat16, device=place)
            pack(drawn.mul_(WIDTH**-0.5), part, into[role + RARE])
            continue
        if role.endswith("_scale"):
            data = into[role.removesuffix("_scale")]
            packed = data.dtype == torch.uint8
            width, spread = (2 * data.shape[-1], 4.6) if packed else (data.shape[-1], 73.0)
            part.fill_(width**-0.5 / spread)  # the deviation of all its numbers
            continue
        if not part.dtype.is_floating_point:
            low, high = (0, 256) if part.dtype == torch.uint8 else (-127, 128)
            part.copy_(torch.randint(low, high, part.shape, dtype=part.dtype, device=place))
            continue
        drawn = torch.randn(part.shape, dtype=part.dtype, device=place)
        part.copy_(drawn.mul_(part.shape[-1] ** -0.5))
