"""Shapes of well-known models, for benchmarks with random weights: `random:llama-1b`."""

from __future__ import annotations

import re
from dataclasses import replace

from ...ir.diagnostics import ModelError
from ...ir.model import ModelConfig, Rope

_LLAMA3 = Rope(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)


class UnknownPreset(ModelError):
    """A `random:NAME` that is not listed."""

    template = "there is no model shape {name!r}"
    hint = "the shapes are: {known}; NAME-16l is a shape with so many layers"


def _dense(
    architecture: str, vocabulary: int, width: int, layers: int, heads: int, kv_heads: int,
    head_dim: int, ffn: int, context: int, rope: Rope, tied: bool = True, **rest: object,
) -> ModelConfig:  # fmt: skip
    return ModelConfig(
        f"{architecture}ForCausalLM", vocabulary, width, layers, heads, kv_heads, head_dim, ffn,
        context, rope, tied=tied, windows=(0,) * layers, **rest,  # type: ignore[arg-type]
    )  # fmt: skip


PRESETS = {
    "tiny-dense": _dense("Llama", 4096, 256, 8, 4, 2, 64, 768, 8192, Rope(1e5), norm_eps=1e-5),
    "tiny-moe": _dense("Mixtral", 4096, 256, 5, 4, 2, 64, 192, 8192, Rope(1e5), norm_eps=1e-5,
                       experts=8, experts_per_token=2),
    "llama-1b": _dense("Llama", 128256, 2048, 16, 32, 8, 64, 8192, 131072, _LLAMA3, norm_eps=1e-5),
    "llama-3b": _dense("Llama", 128256, 3072, 28, 24, 8, 128, 8192, 131072, _LLAMA3,
                       norm_eps=1e-5),
    "llama-8b": _dense("Llama", 128256, 4096, 32, 32, 8, 128, 14336, 131072,
                       Rope(500000.0, "llama3", 8.0, 1.0, 4.0, 8192), False, norm_eps=1e-5),
    "qwen-0.5b": _dense("Qwen2", 151936, 896, 24, 14, 2, 64, 4864, 32768, Rope(1e6),
                        qkv_bias=True),
    "qwen3-0.6b": _dense("Qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 40960, Rope(1e6),
                         head_norms=True),
    "qwen3-30b-a3b": _dense("Qwen3Moe", 151936, 2048, 48, 32, 4, 128, 768, 40960, Rope(1e6), False,
                            head_norms=True, experts=128, experts_per_token=8),
    "mixtral-8x7b": _dense("Mixtral", 32000, 4096, 32, 32, 8, 128, 14336, 32768, Rope(1e6), False,
                           norm_eps=1e-5, experts=8, experts_per_token=2),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """Return a named shape, or `NAME-16l`: the same with 16 layers; raises UnknownPreset."""
    base, layers = name, 0
    cut = re.fullmatch(r"(.+)-([1-9]\d{0,2})l", name)
    if cut and cut[1] in PRESETS:
        base, layers = cut[1], int(cut[2])
    if base not in PRESETS:
        raise UnknownPreset(name=name, known=", ".join(PRESETS))
    found = PRESETS[base]
    return replace(found, layers=layers, windows=(0,) * layers) if layers else found
