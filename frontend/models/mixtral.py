"""Mixtral and Qwen3-MoE: attention as in Llama and Qwen3, and experts for the feed-forward.

A checkpoint names experts one by one, as on the hub, or all of a layer's in one tensor (`fused`),
as in transformers 5: mlp.experts.{gate_up_proj,down_proj}.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.core import Module
from ...ir.model import ModelConfig
from .blocks import GraphBuilder

Names = tuple[str, list[list[str]] | str, list[list[str]] | str]
"""Of the router, of gate and up [E, 2F, D], and of down [E, D, F]."""


def build_mixtral(config: ModelConfig, fused: bool = False) -> Module:
    """Return the step; experts on the hub are block_sparse_moe.experts.N.{w1,w3,w2}."""
    return _build(config, _fused if fused else _mixtral)


def build_qwen_moe(config: ModelConfig, fused: bool = False) -> Module:
    """Return the step; experts on the hub are mlp.experts.N.{gate,up,down}_proj."""
    return _build(config, _fused if fused else _qwen)


def _build(config: ModelConfig, names: Callable[[str, int], Names]) -> Module:
    builder = GraphBuilder(config)
    x = builder.embed()
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}"
        seen = builder.norm(x, f"{prefix}.input_layernorm.weight")
        x = builder.add(x, builder.attention(seen, f"{prefix}.self_attn", layer))
        seen = builder.norm(x, f"{prefix}.post_attention_layernorm.weight")
        x = builder.add(x, builder.experts(seen, *names(prefix, config.experts)))
    return builder.finish(builder.head(x))


def _fused(prefix: str, experts: int) -> Names:
    home = f"{prefix}.mlp"
    return f"{home}.gate", f"{home}.experts.gate_up_proj", f"{home}.experts.down_proj"


def _mixtral(prefix: str, experts: int) -> Names:
    return _by_expert(f"{prefix}.block_sparse_moe", experts, ("w1", "w3", "w2"))


def _qwen(prefix: str, experts: int) -> Names:
    return _by_expert(f"{prefix}.mlp", experts, ("gate_proj", "up_proj", "down_proj"))


def _by_expert(home: str, experts: int, parts: tuple[str, str, str]) -> Names:
    gate, up, down = parts
    each = [f"{home}.experts.{expert}" for expert in range(experts)]
    gate_up = [[f"{name}.{gate}.weight", f"{name}.{up}.weight"] for name in each]
    return f"{home}.gate", gate_up, [[f"{name}.{down}.weight"] for name in each]
