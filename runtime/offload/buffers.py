"""The buffers that a pipeline's slots stand for, on the device and beside the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.core import Term
from ..devices.memory import Memory, rounded
from ..devices.streams import OffloadDevice
from .sections import rows_of

ROLES = {
    "x": ("x", "mid"), "qkv": ("qkv",), "q": ("q",), "seen": ("seen",),
    "routed": ("normed", "weights", "order", "starts"), "rows": ("rows",),
    "rows_cpu": ("rows",),
}  # fmt: skip
"""What each kind of slot holds; a residual stream has two places, before and after attention."""

HOST_SUFFIX = "_host"


@dataclass(frozen=True)
class Buffer:
    """A tensor of a slot: its role there, shape and dtype."""

    slot: str
    role: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return rounded(torch.Size(self.shape).numel() * self.dtype.itemsize)

    @property
    def on_host(self) -> bool:
        """Whether it lies beside the CPU."""
        return self.slot.partition(".")[0].endswith(HOST_SUFFIX)


def buffers_of(
    slots: Iterable[str], types: Mapping[str, Mapping[str, Term]], extents: Mapping[str, int]
) -> list[Buffer]:
    """Return the buffers of slots; `types` are those of roles at each place, device and host.

    `extents` bound their symbols. A role that no section of a place has comes from the other one:
    the two may differ in dtype, and copies convert.
    """
    found = []
    for slot in slots:
        name = slot.partition(".")[0]
        kind = name.removesuffix(HOST_SUFFIX)
        mine, other = ("host", "device") if name != kind else ("device", "host")
        known = {**types[other], **types[mine]}
        for role in ROLES.get(kind, ()):
            shape, dtype = rows_of(known["x" if role == "mid" else role], extents)
            found.append(Buffer(slot, role, shape, dtype))
    return found


class Buffers:
    """Every slot's tensors; `of` returns them cut to the rows of a micro-batch."""

    def __init__(self, buffers: Iterable[Buffer], device: OffloadDevice) -> None:
        self._tensors: dict[str, dict[str, Tensor]] = {}
        for each in buffers:
            tensor = _host(each, device) if each.on_host else _device(each, device.memory)
            self._tensors.setdefault(each.slot, {})[each.role] = tensor

    def of(self, slot: str, tokens: int, pairs: int) -> dict[str, Tensor]:
        """Return a slot's tensors by role, with as many rows as the tokens or pairs have."""
        rows = {"order": pairs, "rows": pairs, "starts": None}
        return {
            role: tensor[: rows.get(role, tokens)] for role, tensor in self._tensors[slot].items()
        }


def _device(each: Buffer, memory: Memory) -> Tensor:
    return memory.allocate(f"buffer {each.slot.partition('.')[0]}", each.shape, each.dtype)


def _host(each: Buffer, device: OffloadDevice) -> Tensor:
    size = torch.Size(each.shape).numel() * each.dtype.itemsize
    return device.host(rounded(size))[:size].view(each.dtype).view(each.shape)
