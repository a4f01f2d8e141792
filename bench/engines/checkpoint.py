"""Makes checkpoint folders with random weights in the hub's format, one tensor at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ONE_B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000,
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
    "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
"""A Llama shape of 1.10 B parameters: 4.4 GB in f32."""


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a Llama configuration."""
    d, f, c = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * c, config["num_key_value_heads"] * c
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], d)}
    for layer in range(config["num_hidden_layers"]):
        home = f"model.layers.{layer}"
        found |= {
            f"{home}.input_layernorm.weight": (d,),
            f"{home}.self_attn.q_proj.weight": (q, d),
            f"{home}.self_attn.k_proj.weight": (kv, d),
            f"{home}.self_attn.v_proj.weight": (kv, d),
            f"{home}.self_attn.o_proj.weight": (d, q),
            f"{home}.post_attention_layernorm.weight": (d,),
            f"{home}.mlp.gate_proj.weight": (f, d),
            f"{home}.mlp.up_proj.weight": (f, d),
            f"{home}.mlp.down_proj.weight": (d, f),
        }
    found["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    return found


def make(folder: Path, config: dict[str, Any] = ONE_B, seed: int = 0) -> Path:
    """Write random weights (normal, 0.02; norms 1), one file a layer; return the folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    groups: dict[str, list[str]] = {}
    for name in shapes(config):
        groups.setdefault(".".join(name.split(".")[:3]) if ".layers." in name else name, []).append(
            name
        )
    index: dict[str, str] = {}
    for number, names in enumerate(groups.values(), 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        tensors = {name: _random(torch, shapes(config)[name], generator) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        index |= dict.fromkeys(names, file)
    total = sum(4 * _product(shape) for shape in shapes(config).values())
    table = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _random(torch: Any, shape: tuple[int, ...], generator: Any) -> Any:
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.empty(shape).normal_(0.0, 0.02, generator=generator)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result
