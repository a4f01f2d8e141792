"""Write a trained model as the hub writes it: bf16 safetensors, config, generation config.

    python zoo/train/export.py A.safetensors B.safetensors OUT.safetensors     # the mean of two
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from model import EPS, Model, Shape
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "wq": "self_attn.q_proj",
        "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj"}
DENSE = {"w1": "mlp.gate_proj", "w3": "mlp.up_proj", "w2": "mlp.down_proj"}


def hub_weights(model: Model) -> dict[str, Tensor]:
    """The model's weights under the hub's names (views)."""
    out = {"model.embed_tokens.weight": model.embed.data, "model.norm.weight": model.norm.data}
    for i, layer in enumerate(model.layers):
        for name, p in layer.items():
            lead = f"model.layers.{i}."
            if name in HERE:
                out[f"{lead}{HERE[name]}.weight"] = p.data
            elif name == "router":
                out[f"{lead}block_sparse_moe.gate.weight"] = p.data
            elif p.dim() == 3:
                for e in range(p.shape[0]):
                    out[f"{lead}block_sparse_moe.experts.{e}.{name}.weight"] = p.data[e]
            else:
                out[f"{lead}{DENSE[name]}.weight"] = p.data
    return out


def config(shape: Shape) -> dict[str, object]:
    """The hub's config.json."""
    out: dict[str, object] = {
        "architectures": ["MixtralForCausalLM" if shape.experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if shape.experts else "llama",
        "vocab_size": shape.vocabulary, "hidden_size": shape.width,
        "intermediate_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head, "hidden_act": "silu", "max_position_embeddings": 8192,
        "rope_theta": shape.theta, "rms_norm_eps": EPS, "tie_word_embeddings": True,
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": True,
        "torch_dtype": "bfloat16",
    }
    if shape.experts:
        out |= {"num_local_experts": shape.experts, "num_experts_per_tok": 2,
                "router_aux_loss_coef": 0.001, "output_router_logits": False,
                "sliding_window": None}
    else:
        out["mlp_bias"] = False
    return out


def export(model: Model, folder: Path, weights: bool = True) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": 1, "eos_token_id": [6, 2], "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config(model.shape), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    if weights:
        flat = {k: v.detach().to("cpu", torch.bfloat16).contiguous().clone()
                for k, v in hub_weights(model).items()}
        save_file(flat, folder / "model.safetensors", {"format": "pt"})


def load(model: Model, path: Path) -> None:
    """Read weights that `export` wrote."""
    found = load_file(path)
    for name, tensor in hub_weights(model).items():
        tensor.copy_(found[name])


def average(first: Path, second: Path, out: Path) -> None:
    """The mean of two runs of which one continued the other."""
    a, b = load_file(first), load_file(second)
    mean = {k: ((a[k].float() + b[k].float()) / 2).bfloat16().contiguous() for k in a}
    save_file(mean, out, {"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("three files: two that are averaged, and the one that is written")
    average(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
