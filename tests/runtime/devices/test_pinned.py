"""Pinned memory is let go of with its tensors, and not at all where the device is lost."""

from __future__ import annotations

import gc
import sys
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch
from weft.runtime.devices import pinned
from weft.runtime.devices.device import DeviceLost, device_errors


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Any:
    def zeros(*shape: Any, pin_memory: bool, **rest: Any) -> torch.Tensor:
        return torch.zeros(*shape, **rest)

    monkeypatch.setattr(pinned, "torch", SimpleNamespace(zeros=zeros))
    monkeypatch.setattr(pinned, "_PINNED", type(pinned._PINNED)())
    return partial(pinned.staged, (4,), torch.int32)


def test_what_was_pinned_stays_where_a_device_is_lost(staged: Any) -> None:
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


def test_other_threads_may_pin_meanwhile(staged: Any) -> None:
    """At every line: a dictionary that grew while it was gone through hid that the GPU was lost."""
    held = [staged(True) for _ in range(3)]

    def pin(frame: Any, event: str, _: Any) -> Any:
        inside = frame.f_code.co_filename in (pinned.__file__, weakref.__file__)
        if inside and event == "line":
            held.append(staged(True))
        return pin

    before = sys.gettrace()
    sys.settrace(pin)
    try:
        pinned.keep_for_ever()
    finally:
        sys.settrace(before)
    assert len(held) > 6
    first = ref(held[0])
    held.clear()
    gc.collect()
    assert first() is not None
