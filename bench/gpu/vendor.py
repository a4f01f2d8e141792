"""Decode attention of torch over contiguous keys: flash, cuDNN and flex_attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from weft.bench.gpu.attention import COLD, graph_seconds
from weft.passes.tile.attention.parts import Parts

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
_FLEX: list[Callable[..., Any]] = []


def vendor_seconds(shape: Parts, count: int, keys: int, settle: float = 0.0) -> dict[str, float]:
    """Return the seconds of one decode step of `count` sequences of `keys` keys, by peer,
    once each has run for `settle` seconds.

    Keys lie contiguously, [B, K, S, C]; sets of them rotate so that none is found in the cache.
    A peer that refuses the shape is left out.
    """
    size = (count, shape.kv_heads, keys, shape.head_dim)
    sets = max(1, min(64, -(-COLD // (4 * count * shape.kv_heads * keys * shape.head_dim))))
    caches = [
        [torch.randn(size, dtype=torch.bfloat16, device="cuda") for _ in "kv"] for _ in range(sets)
    ]
    q = torch.randn(count, shape.heads, 1, shape.head_dim, dtype=torch.bfloat16, device="cuda")
    times = {}
    for name, backend in BACKENDS.items():
        with sdpa_kernel(backend):
            times |= _timed(name, F.scaled_dot_product_attention, q, caches, settle)
    times |= _timed("flex", _flex(), q, caches, settle)
    return times


def _timed(
    name: str, attend: Callable[..., Any], q: torch.Tensor, caches: list, settle: float
) -> dict[str, float]:
    try:
        attend(q, *caches[0], enable_gqa=True)
        torch.cuda.synchronize()
        launches = [lambda c=cache: attend(q, *c, enable_gqa=True) for cache in caches]
        return {name: graph_seconds(launches, settle=settle)}
    except RuntimeError as error:
        print(f"  {name} refuses {tuple(caches[0][0].shape)}: {str(error).splitlines()[0]}")
        return {}


def _flex() -> Callable[..., Any]:
    """Return flex_attention compiled; each shape compiles anew."""
    if not _FLEX:
        from torch.nn.attention.flex_attention import flex_attention

        torch._dynamo.config.cache_size_limit = 64
        _FLEX.append(torch.compile(flex_attention, dynamic=False))
    return _FLEX[0]
