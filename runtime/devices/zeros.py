"""Memory of zeros: a CPU's pages take neither memory nor time until they are touched."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes: where buffers begin, which the widest loads of kernels and copies suit."""


def zeros(shape: tuple[int, ...], dtype: torch.dtype, place: str | torch.device = "cpu") -> Tensor:
    """Return zeros on a device; on the CPU the system's own, which `torch.zeros` would write over
    (.2 s of 256 MiB, of which a short run of a small model touches a few)."""
    if torch.device(place).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=place)
    size = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.from_numpy(np.zeros(size + ALIGNMENT, np.uint8))
    shift = -raw.data_ptr() % ALIGNMENT
    return raw[shift : shift + size].view(dtype).view(shape)
