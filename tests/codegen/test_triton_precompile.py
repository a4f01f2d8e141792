"""Kernels are compiled ahead as their first launch would compile them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from weft.codegen.triton import precompile as triton_precompile
from weft.codegen.triton.compile import signature
from weft.codegen.triton.precompile import alone, load, precompile
from weft.codegen.triton.source import launch_options
from weft.ir.schedule import Schedule
from weft.passes.tile.gpu_schedules import gpu_step_kernels

pytest.importorskip("triton")


class Function:
    """One of Triton's, that only remembers what it was compiled for."""

    def __init__(self) -> None:
        self.loaded = 0

    def warmup(self, *arguments, grid, **options):
        self.arguments, self.options = arguments, options
        return self

    def _init_handles(self):
        self.loaded += 1


def type_name(stand_in):
    from triton._utils import type_canonicalisation_dict

    if isinstance(stand_in, int):
        return "i32"
    return "*" + type_canonicalisation_dict[str(stand_in).removeprefix("torch.")]


def test_arguments_and_options_are_those_of_launches(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    chosen = [*gpu_step_kernels(1000)]
    chosen[0] = (chosen[0][0], Schedule(num_warps=8, chained=True, registers=64))
    functions = [Function() for _ in chosen]
    precompile([(f, *pair) for f, pair in zip(functions, chosen, strict=True)])
    for function, (kernel, schedule) in zip(functions, chosen, strict=True):
        assert [type_name(one) for one in function.arguments] == list(signature(kernel).values())
        assert list(function.options.items()) == list(launch_options(schedule).items())
        assert function.loaded == 1
    assert functions[0].options["maxnreg"] == 64 and functions[0].options["launch_pdl"]


def test_nothing_is_compiled_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton_precompile, "ThreadPoolExecutor", None)
    precompile([(None, *pair) for pair in gpu_step_kernels(1000)])


class Loading:
    """What is loaded now, of which signature, and what was at once."""

    def __init__(self) -> None:
        self._lock, self._now = threading.Lock(), list[str]()
        self.at_once: list[tuple[str, ...]] = []
        self.loaded: list[str] = []

    def kernel(self, name: str, *types: str) -> Any:
        def init() -> None:
            with self._lock:
                self._now.append(" ".join(types))
                self.at_once.append(tuple(self._now))
            time.sleep(0.02)
            with self._lock:
                self._now.remove(" ".join(types))
                self.loaded.append(name)

        signature = dict(zip(("x", "y"), types, strict=True))
        return SimpleNamespace(_init_handles=init, src=SimpleNamespace(signature=signature))


def test_launchers_of_the_same_types_are_loaded_one_after_another() -> None:
    loading = Loading()
    kinds = [("*bf16", "i32"), ("*fp32", "i32")]
    kernels = [loading.kernel(f"{at}", *kinds[at % 2]) for at in range(8)]
    late = SimpleNamespace(future=None, result=lambda: loading.kernel("late", *kinds[0]))
    with ThreadPoolExecutor(8) as pool:
        load([*kernels, late], pool, 0)
    assert sorted(loading.loaded) == [*map(str, range(8)), "late"]
    assert all(len({*now}) == len(now) for now in loading.at_once)
    assert max(len(now) for now in loading.at_once) == 2  # others are loaded side by side


def test_one_process_compiles_into_a_cache_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with alone(tmp_path):
            order.append("other")

    with alone(tmp_path):
        waits = threading.Thread(target=other)
        waits.start()
        time.sleep(0.1)
        order.append("first")
    waits.join()
    assert order == ["first", "other"]


def test_a_folder_that_takes_no_lock_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with alone(tmp_path / "file"):
        pass
