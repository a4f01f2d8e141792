"""From a checkpoint folder, or a named shape, to its configuration and graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...ir.core import Module
from ...ir.model import ModelConfig
from .config import UnknownArchitecture, read_config, read_json
from .llama import build_llama
from .mixtral import build_mixtral, build_qwen_moe
from .presets import preset
from .qwen import build_qwen

BUILDERS: dict[str, Callable[..., Module]] = {
    "LlamaForCausalLM": build_llama,
    "MistralForCausalLM": build_llama,
    "Qwen2ForCausalLM": build_qwen,
    "Qwen3ForCausalLM": build_qwen,
    "Qwen3MoeForCausalLM": build_qwen_moe,
    "MixtralForCausalLM": build_mixtral,
}


def load_model(model: str | Path) -> tuple[ModelConfig, Module]:
    """Return configuration and graph of a folder or of `random:NAME`; raises ModelError."""
    if str(model).startswith("random:"):
        config = preset(str(model).removeprefix("random:"))
        return config, build_graph(config)
    config = read_config(model)
    return config, build_graph(config, tensor_names(Path(model)))


def build_graph(config: ModelConfig, names: frozenset[str] = frozenset()) -> Module:
    """Return the model's step as graph IR; `names` are the checkpoint's tensors, if known."""
    if config.architecture not in BUILDERS:
        raise UnknownArchitecture(
            file="config.json", architecture=config.architecture, supported=", ".join(BUILDERS)
        )
    if config.experts:
        fused = any(name.endswith("experts.gate_up_proj") for name in names)
        return BUILDERS[config.architecture](config, fused)
    return BUILDERS[config.architecture](config)


def tensor_names(folder: Path) -> frozenset[str]:
    """Return the names of a checkpoint's tensors, from the shard index or a file's header.

    Empty when there are no weights here: that is the weight loader's to complain about.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        return frozenset(shards) if isinstance(shards, dict) else frozenset()
    single = folder / "model.safetensors"
    return frozenset(_header_names(single)) if single.exists() else frozenset()


def _header_names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []  # the weight loader names the file and the mend
