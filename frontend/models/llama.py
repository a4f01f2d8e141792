"""Llama and Mistral: pre-normed attention and a gated feed-forward."""

from __future__ import annotations

from ...ir.core import Module
from ...ir.model import ModelConfig
from .blocks import GraphBuilder


def build_llama(config: ModelConfig) -> Module:
    """Return the step of a dense decoder with Llama's names on the hub."""
    builder = GraphBuilder(config)
    x = builder.embed()
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        seen = builder.norm(x, f"{prefix}.input_layernorm.weight")
        x = builder.add(x, builder.attention(seen, f"{prefix}.self_attn", layer))
        seen = builder.norm(x, f"{prefix}.post_attention_layernorm.weight")
        x = builder.add(x, builder.gated_ffn(seen, f"{prefix}.mlp"))
    return builder.finish(builder.head(x))
