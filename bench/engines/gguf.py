"""Writes a Llama checkpoint folder as a GGUF file, so that llama.cpp runs the very same weights.

llama.cpp rotates neighbouring pairs (2i, 2i + 1) where checkpoints of the hub rotate halves
(i, i + C/2): the rows of q and k are reordered here, as its own converter does. Norms stay f32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("f32", "bf16", "f16", "q8_0")


def export(folder: Path, target: Path, format: str) -> Path:
    """Write `folder` (config.json, *.safetensors, perhaps tokenizer.json) to `target`; return it.

    Tensors are converted one at a time: the memory needed is the largest tensor's.
    """
    gguf: Any = import_module("gguf")  # a peer's library, which few have

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "llama")
    _settings(writer, config)
    _vocabulary(writer, folder, config["vocab_size"])
    chosen = gguf.GGMLQuantizationType[format.upper()]
    plain = gguf.GGMLQuantizationType.F32
    for name, shape in _shapes(folder):
        kind = chosen if len(shape) > 1 else plain
        stored = gguf.quant_shape_to_byte_shape(shape, kind) if kind not in _NATIVE else shape
        dtype = np.dtype(_NATIVE.get(kind, np.uint8))
        size = int(np.prod(stored)) * dtype.itemsize
        raw = None if kind in _NATIVE else kind
        writer.add_tensor_info(renamed(name), stored, dtype, size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, array in _tensors(folder):
        array = reordered(name, array, config)
        kind = chosen if array.ndim > 1 else plain
        writer.write_tensor_data(gguf.quantize(array, kind))
    writer.close()
    return target


def renamed(name: str) -> str:
    """Return llama.cpp's name of a tensor of the hub."""
    parts = name.removesuffix(".weight").split(".")
    if parts[:2] == ["model", "layers"]:
        return f"blk.{parts[2]}.{_BLOCK['.'.join(parts[3:])]}.weight"
    return f"{_TOP['.'.join(parts)]}.weight"


def reordered(name: str, array: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Return q and k [H*C, D] with each head's rows interleaved; any other tensor as it is."""
    for key, part in (("num_attention_heads", "q_proj"), ("num_key_value_heads", "k_proj")):
        if f".{part}." in name:
            heads = array.reshape(config[key], 2, -1, array.shape[1])
            return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(array.shape))
    return array


_BLOCK = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_NATIVE = {0: np.float32, 1: np.float16}
"""GGUF's types (F32, F16) that NumPy has itself."""


def _settings(writer: Any, config: dict[str, Any]) -> None:
    width = config["hidden_size"] // config["num_attention_heads"]
    head = config.get("head_dim") or width
    rope = config.get("rope_parameters") or {}
    writer.add_name("weft bench")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.get("rope_theta") or rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _vocabulary(writer: Any, folder: Path, size: int) -> None:
    """Write a byte-level BPE vocabulary, or none when the folder has no tokenizer."""
    file = folder / "tokenizer.json"
    if not file.exists():
        writer.add_tokenizer_model("no_vocab")
        return
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    names = {index: text for text, index in tokenizer["model"]["vocab"].items()} | special
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(index, f"<unused_{index}>") for index in range(size)])
    writer.add_token_types([3 if index in special else 1 for index in range(size)])  # 3: control
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    for file in _files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tuple(tensors.get_slice(name).get_shape())


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    for file in _files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name).float().numpy()


def main() -> None:
    """Convert one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="f32")
    options = parser.parse_args()
    print(export(options.folder, options.target, options.format))


if __name__ == "__main__":
    main()
