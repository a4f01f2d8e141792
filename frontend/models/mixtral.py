"""Mixtral: Llama's attention, and experts for the feed-forward, under either of its names."""

from __future__ import annotations

from ...ir.core import Module
from ...ir.model import ModelConfig
from .blocks import GraphBuilder


def build_mixtral(config: ModelConfig, fused: bool = False) -> Module:
    """Return the step; `fused` takes the names of transformers 5, else the hub's, an expert each.

    Hub: block_sparse_moe.experts.N.{w1,w3,w2}; fused: mlp.experts.{gate_up_proj,down_proj}.
    """
    builder = GraphBuilder(config)
    x = builder.embed()
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        seen = builder.norm(x, f"{prefix}.input_layernorm.weight")
        x = builder.add(x, builder.attention(seen, f"{prefix}.self_attn", layer))
        seen = builder.norm(x, f"{prefix}.post_attention_layernorm.weight")
        x = builder.add(x, builder.experts(seen, *_expert_names(prefix, config.experts, fused)))
    return builder.finish(builder.head(x))


def _expert_names(
    prefix: str, experts: int, fused: bool
) -> tuple[str, list[list[str]] | str, list[list[str]] | str]:
    """Return the names of the router, of gate and up [E, 2F, D], and of down [E, D, F]."""
    if fused:
        home = f"{prefix}.mlp"
        return f"{home}.gate", f"{home}.experts.gate_up_proj", f"{home}.experts.down_proj"
    home = f"{prefix}.block_sparse_moe"
    each = [f"{home}.experts.{expert}" for expert in range(experts)]
    gate_up = [[f"{name}.w1.weight", f"{name}.w3.weight"] for name in each]
    return f"{home}.gate", gate_up, [[f"{name}.w2.weight"] for name in each]
