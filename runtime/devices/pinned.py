"""Pinned host memory that copies go through, and what becomes of it when its device is lost."""

from __future__ import annotations

import ctypes
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_PINNED: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
_NUMBERS = count()


def staged(shape: tuple[int, ...], dtype: torch.dtype, pinned: bool) -> Tensor:
    """Return zeroed host memory, `pinned` where copies to or from a GPU go through it."""
    made = torch.zeros(shape, dtype=dtype, pin_memory=pinned)
    return remembered(made) if pinned else made


def remembered(made: Tensor) -> Tensor:
    """Return memory that torch has pinned, and know of it as long as it is used."""
    _PINNED[next(_NUMBERS)] = made
    return made


def keep_for_ever() -> None:
    """Let none of it be freed: torch records an event where it frees what was copied, and on a
    device that is lost that fails in a destructor, which ends the process by a signal."""
    for known in _PINNED.valuerefs():  # made at one go, as other threads may pin more
        tensor = known()
        if tensor is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(tensor))
