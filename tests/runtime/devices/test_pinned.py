"""Pinned memory is let go of with its tensors, and not at all where the device is lost."""

from __future__ import annotations

import gc
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch
from weft.runtime.devices import pinned
from weft.runtime.devices.device import DeviceLost, device_errors


def test_what_was_pinned_stays_where_a_device_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(*shape: Any, pin_memory: bool, **rest: Any) -> torch.Tensor:
        return torch.zeros(*shape, **rest)

    monkeypatch.setattr(pinned, "torch", SimpleNamespace(zeros=zeros))
    staged = partial(pinned.staged, (4,), torch.int32)
    given, usual = [staged(True) for _ in range(2)], staged(False)
    early, late, plain = ref(given[0]), ref(given[1]), ref(usual)
    del given[0]
    gc.collect()
    assert early() is None
    with pytest.raises(DeviceLost), device_errors():
        raise RuntimeError("CUDA error: device-side assert triggered")
    del given, usual
    gc.collect()
    assert late() is not None and plain() is None
    assert DeviceLost.abrupt, "what else is on the device is not freed, either"
