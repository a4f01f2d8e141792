"""Kernels are compiled ahead as their first launch would compile them."""

from __future__ import annotations

import pytest
import torch
from weft.codegen.triton import precompile as triton_precompile
from weft.codegen.triton.compile import signature
from weft.codegen.triton.precompile import precompile
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
