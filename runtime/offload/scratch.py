"""What a step takes of the device for a while, counted before: copies and products that convert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...ir.core import Operation, Term
from ...ir.types import dtype_of, shape_of
from ..devices.memory import rounded
from ..execution.library import workspace
from .buffers import HOST_SUFFIX, Buffer

MOVED = {"qkv": "down", "routed": "down", "seen": "up"}
"""The kinds of slots that are copied between host and device, and the queue that copies them."""

PIECE = 16 << 20
"""Bytes of what is converted at a time, at the most: a millisecond's fraction over any link."""


def conversion_bytes(buffers: Iterable[Buffer]) -> dict[str, int]:
    """Return the bytes of the device that each queue's conversions go through.

    `buffers` are those of both places: where a role's dtypes differ, rows are on the device in the
    host's dtype for a while.
    """
    found: dict[str, int] = {}
    dtypes: dict[tuple[str, str, bool], Buffer] = {}
    for each in buffers:
        kind = each.slot.partition(".")[0].removesuffix(HOST_SUFFIX)
        dtypes[kind, each.role, each.on_host] = each
    for (kind, role, on_host), each in dtypes.items():
        other = dtypes.get((kind, role, False))
        if on_host and kind in MOVED and other is not None and other.dtype != each.dtype:
            queue = MOVED[kind]
            found[queue] = max(found.get(queue, 0), min(each.bytes, PIECE))
    return found


def product_bytes(functions: Iterable[Operation], extents: Mapping[str, int]) -> int:
    """Return the most bytes that one of the functions' products of the library widens operands in,
    with as many rows as `extents` say."""
    found = [0]
    for op in (op for function in functions for op in function.regions[0].operations):
        if op.name == "graph.library" and op["routine"] == "matmul":
            x, w = (value.type for value in op.operands[:2])
            rows, depth = (extents[d.name] if isinstance(d, Term) else d for d in shape_of(x))
            columns = int(shape_of(w)[0])  # type: ignore[arg-type]
            formats = (dtype_of(x), dtype_of(w), dtype_of(op.result.type))
            found.append(workspace(rows, columns, depth, *formats))
    return rounded(max(found))
