"""What an executor takes of the device beside pages of experts, known before it is built."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ir.core import Module, Operation
from ...ir.model import ModelConfig
from ...ir.types import DTYPE_BYTES, dtype_of, shape_of
from ..devices.memory import rounded
from ..execution.executor import PAGE_SIZE
from .build import OffloadSettings, device_buffers, state_bytes
from .pages import PageShape
from .scratch import conversion_bytes, product_bytes
from .sections import Lowered

ROUNDING = 4096
"""Bytes that rounding each tensor up may cost beyond what is counted one by one."""


def held_bytes(sections: Sequence[Lowered]) -> int:
    """Return the bytes of the weights, and of their scales, that lie on the device for good."""
    held = {}
    for op in Module(tuple(_functions(sections))).walk():
        if op.name == "graph.weight":
            held[op["tensors"], op.attribute("shard"), dtype_of(op.result.type)] = op
    return sum(rounded(_bytes(op)) for op in held.values())


def working_bytes(
    sections: Sequence[Lowered], settings: OffloadSettings, config: ModelConfig, page: PageShape,
    stored: PageShape,
) -> int:  # fmt: skip
    """Return the bytes of buffers, activations, keys and scratch; `stored` is a page as it lies in
    host memory."""
    functions, buffers = (
        _functions(sections),
        list(device_buffers(sections, settings, config, True)),
    )
    pages = config.experts * settings.slices
    sizes = [
        max(function["memory"]["bytes"] for function in functions),
        product_bytes(functions, settings.all_extents(config)),
        settings.max_batch * config.vocab_size * 4,
        config.layers * pages * 8,
        *(part.bytes for part in stored.parts if part not in page.parts),
    ]
    own = sum(b.bytes for b in buffers if not b.on_host) + sum(conversion_bytes(buffers).values())
    return own + sum(map(rounded, sizes)) + _attention_bytes(settings, config) + ROUNDING


def key_page_bytes(settings: OffloadSettings, config: ModelConfig) -> int:
    """Return the bytes of a page of keys and values in all layers."""
    numbers = config.layers * 2 * config.kv_heads * PAGE_SIZE * config.head_dim
    return numbers * DTYPE_BYTES[settings.key_format]


def _attention_bytes(settings: OffloadSettings, config: ModelConfig) -> int:
    """Return the bytes of keys, tables and states where the device computes attention."""
    if not settings.gpu_attention:
        return 0
    element = key_page_bytes(settings, config)
    kept = 2 * rounded(settings.device_pages * element // 2)
    passing = 2 * settings.kv_room * element // config.layers
    tables = 2 * rounded(config.context_length * config.head_dim // 2 * 4)
    states = state_bytes(settings.attention) if settings.attention is not None else 0
    return kept + passing + tables + states


def _functions(sections: Sequence[Lowered]) -> list[Operation]:
    return [section.function for section in sections if section.place == "device"]


def _bytes(op: Operation) -> int:
    shape = [int(extent) for extent in shape_of(op.result.type)]  # type: ignore[arg-type]
    scales = 4 * prod(shape[:-1]) + 256 if dtype_of(op.result.type) == "i8" else 0
    return prod(shape) * DTYPE_BYTES[dtype_of(op.result.type)] + scales
