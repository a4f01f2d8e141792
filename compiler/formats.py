"""How numbers are kept: what the IR calls the formats that options ask for, and pages of keys."""

from __future__ import annotations

from ..options import Options

PAGE_SIZE = 16
"""Tokens whose keys and values a page holds on a CPU."""
_FORMATS = {"f32": "f32", "bf16": "bf16", "int8": "i8", "fp8": "f8e4m3"}


def weight_dtype(options: Options) -> str:
    """Return the IR's name of the weight format that the options ask for."""
    return _FORMATS[options.weights]


def activation_dtype(options: Options) -> str:
    """Return what is computed between kernels: f32, and bf16 on a GPU with narrower weights."""
    return "bf16" if options.target == "cuda" and options.weights != "f32" else "f32"


def kv_dtype(options: Options) -> str:
    """Return the IR's name of the format of keys and values: the activations' unless asked."""
    return _FORMATS[options.kv] if options.kv else activation_dtype(options)


def page_size(options: Options) -> int:
    """Return how many tokens a page of keys and values holds."""
    from ..passes.tile.regimes import GPU_PAGE

    return GPU_PAGE if options.target == "cuda" else PAGE_SIZE
