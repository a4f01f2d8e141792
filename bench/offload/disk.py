"""A model larger than host memory: two layers of Mixtral's shape, from a file, on a capped GPU.

The file is written first, of random numbers, and dropped from the system's cache before each run.
The same sequences run twice: with every page that the GPU lacks in host memory, and with a bound
below them, so that pages come from disk in each step. Their tokens must be the same.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .bench import Bench
from .runs import Setting, run

GIB, MIB = 1 << 30, 1 << 20
LARGE = {"width": 4096, "ffn": 14336, "heads": 32, "vocabulary": 32000, "context": 32768}
TINY = {"width": 256, "ffn": 512, "heads": 4, "vocabulary": 1024, "context": 512}
LAYERS, EXPERTS = 2, 8


def disk(bench: Bench) -> dict[str, Any]:
    """Run both, and compare."""
    sizes = TINY if bench.tiny else LARGE
    with tempfile.TemporaryDirectory(prefix="moe_disk") as folder:
        file = written(Path(folder), sizes)
        small = Setting(
            folder, 64, 16, 32, 9, 15 * MIB if bench.tiny else int(5.5 * GIB), bench.base.target,
            kv="bf16", micro_batches=2, max_tokens=256 if bench.tiny else 2048,
            threads=bench.base.threads, cache=bench.base.cache,
        )  # fmt: skip
        found = []
        for host in (0, 5 * MIB if bench.tiny else int(2.5 * GIB)):
            dropped(file)
            found.append(run(replace(small, host_memory=host)))
    memory, other = found
    pages = sum(len(layer.disk) for layer in other.policy.layers)
    page = 3 * 2 * sizes["width"] * sizes["ffn"]
    return {
        "disk": {
            "same_tokens": memory.tokens == other.tokens,
            "pages_on_disk": pages,
            "pages": LAYERS * EXPERTS,
            "host_bytes": other.host_bytes,
            "tokens_per_s": other.decode_rate,
            "tokens_per_s_in_memory": memory.decode_rate,
            "bytes_per_s": pages * page / other.step,
        }
    }


def written(folder: Path, sizes: dict[str, int]) -> Path:
    """Write a checkpoint of random bf16 numbers; return its file of weights."""
    config = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_act": "silu",
        "hidden_size": sizes["width"], "intermediate_size": sizes["ffn"],
        "num_hidden_layers": LAYERS, "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["heads"] // 4, "vocab_size": sizes["vocabulary"],
        "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "max_position_embeddings": sizes["context"],
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    shapes = tensors(sizes)
    for name, shape in shapes.items():
        end = at + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = folder / "model.safetensors"
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            drawn = torch.randn(shape, dtype=torch.bfloat16, device=place)
            drawn = torch.ones_like(drawn) if "norm" in name else drawn * shape[-1] ** -0.5
            drawn.cpu().view(torch.uint8).view(-1).numpy().tofile(opened)
        opened.flush()
        os.fsync(opened.fileno())
    return file


def tensors(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights by name."""
    width, ffn, vocabulary = sizes["width"], sizes["ffn"], sizes["vocabulary"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
    }  # fmt: skip
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        found |= {f"{base}{norm}.weight": (width,)
                  for norm in ("input_layernorm", "post_attention_layernorm")}  # fmt: skip
        found |= {f"{base}self_attn.{name}_proj.weight": (rows, width) for name, rows in
                  (("q", width), ("k", width // 4), ("v", width // 4), ("o", width))}  # fmt: skip
        found[f"{base}block_sparse_moe.gate.weight"] = (EXPERTS, width)
        for expert in range(EXPERTS):
            own = f"{base}block_sparse_moe.experts.{expert}."
            found |= {f"{own}w1.weight": (ffn, width), f"{own}w3.weight": (ffn, width),
                      f"{own}w2.weight": (width, ffn)}  # fmt: skip
    return found


def dropped(file: Path) -> None:
    """Let the system forget what it keeps of a file."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
