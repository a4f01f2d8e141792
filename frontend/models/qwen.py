"""Qwen2 (biases on q, k, v) and Qwen3 (norms on the heads of q and k): Llama's layout otherwise."""

from __future__ import annotations

from ...ir.core import Module
from ...ir.model import ModelConfig
from .llama import build_llama


def build_qwen(config: ModelConfig) -> Module:
    """Return the step; the blocks read the biases and head norms from the configuration."""
    return build_llama(config)
