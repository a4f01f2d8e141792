"""How much of a GPU a second copy of weights may take: what keys were asked for comes first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from weft.compiler.lowering import SHARE_OF_COPIES, copy_room
from weft.frontend.models.registry import load_model
from weft.options import Options
from weft.runtime.devices.device import GIB, WORKSPACE, Device

CONFIG = load_model("random:llama-8b")[0]
CHECKPOINT: Any = SimpleNamespace(config=CONFIG)
COPY = CONFIG.layers * 2 * 2 * CONFIG.ffn * CONFIG.width
"""Bytes of all gate and up weights of the 8 B shape in bf16."""
GPU = Options.from_env({}).changed(target="cuda")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what is free on a GPU that stands in for one."""

    def of(size: int) -> None:
        found = Device("a card", (9, 0), 2 * size, size)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(Device, "find", staticmethod(lambda: found))

    return of


def test_a_share_of_what_keys_would_have(free: Any) -> None:
    assert copy_room(CHECKPOINT, GPU) > COPY  # where there is no GPU: an H200
    free(140 * GIB)
    room = copy_room(CHECKPOINT, GPU)
    left = 140 * GIB - 2 * CONFIG.parameters - WORKSPACE
    assert COPY < room < SHARE_OF_COPIES * left
    free(44 * GIB)
    assert 0 < copy_room(CHECKPOINT, GPU) < COPY
    free(16 * GIB)
    assert copy_room(CHECKPOINT, GPU) == 0


def test_keys_that_are_asked_for_come_first(free: Any) -> None:
    free(44 * GIB)
    asked = GPU.changed(kv_memory=8 * GIB)
    room = copy_room(CHECKPOINT, asked)
    assert room > COPY
    assert 2 * CONFIG.parameters + 8 * GIB + WORKSPACE + room < 44 * GIB
    assert copy_room(CHECKPOINT, GPU.changed(kv_memory=40 * GIB)) == 0


def test_none_where_they_are_not_wanted_or_ranks_would_differ() -> None:
    assert copy_room(CHECKPOINT, GPU.changed(weight_copies=False)) == 0
    assert copy_room(CHECKPOINT, GPU.changed(tp=2)) == 0
