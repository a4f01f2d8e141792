"""Reads config.json of a checkpoint into a ModelConfig, and refuses what it does not understand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.diagnostics import ModelError, reason
from ...ir.model import ModelConfig
from .rope import RopeProblem, read_rope


class UnknownArchitecture(ModelError):
    """A checkpoint of an architecture that weft has no builder for."""

    template = "{file}: the architecture {architecture!r} is not supported"
    hint = "supported are: {supported}"


class BadConfig(ModelError):
    """A configuration with a missing, contradicting or unsupported field."""

    template = "{file}: {problem}"


class MissingFile(ModelError):
    """A checkpoint folder without a file that it must have."""

    template = "{file} is missing"
    hint = "a checkpoint folder has config.json, tokenizer.json and *.safetensors"


class UnreadableFile(ModelError):
    """A file of the checkpoint that is no JSON, or is broken."""

    template = "{file}: {problem}"
    hint = "the file may be cut short; copy or download it again"


@dataclass(frozen=True)
class Traits:
    """How an architecture reads its configuration, where that differs from Llama's."""

    qkv_bias: bool | None = None  # None: `attention_bias` says so, and covers the output too
    head_norms: bool = False
    window: str = "none"  # none | all layers | qwen (layers from max_window_layers on)
    experts: bool = False
    expert_width: str = "intermediate_size"  # the field that says how wide an expert is
    renormalize: bool | None = True  # None: `norm_topk_prob` says so
    mlp_bias: bool = False
    head_dim: int | None = None  # where config.json may leave it out and does not mean D / H
    rope_theta: float = 10000.0


ARCHITECTURES = {
    "LlamaForCausalLM": Traits(mlp_bias=True),
    "MistralForCausalLM": Traits(window="all", qkv_bias=False),
    "Qwen2ForCausalLM": Traits(window="qwen", qkv_bias=True),
    "Qwen3ForCausalLM": Traits(window="qwen", head_norms=True, head_dim=128),
    "Qwen3MoeForCausalLM": Traits(
        window="qwen",
        head_norms=True,
        head_dim=128,
        experts=True,
        expert_width="moe_intermediate_size",
        renormalize=None,
    ),  # fmt: skip
    "MixtralForCausalLM": Traits(window="all", qkv_bias=False, experts=True, rope_theta=1e6),
}


def read_text(path: Path) -> str:
    """Return the text of a checkpoint file; raises MissingFile and UnreadableFile."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFile(file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(file=str(path), problem=reason(error)) from None


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a checkpoint file; raises MissingFile and UnreadableFile."""
    try:
        found = json.loads(read_text(path))
    except RecursionError:
        raise UnreadableFile(file=str(path), problem="it is nested too deeply") from None
    except ValueError as error:
        raise UnreadableFile(file=str(path), problem=reason(error)) from None
    if not isinstance(found, dict):
        raise UnreadableFile(file=str(path), problem="a JSON object was expected")
    return found


@contextmanager
def known_form(path: Path) -> Iterator[None]:
    """Raise UnreadableFile where what reads a file's content stumbles over a value in it."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        problem = f"a value in it has a form that is not known ({error})"
        raise UnreadableFile(file=str(path), problem=problem) from error


def read_config(folder: str | Path) -> ModelConfig:
    """Return the configuration of a checkpoint folder; raises ModelError."""
    path = Path(folder) / "config.json"
    raw = read_json(path)
    with known_form(path):
        return parse_config(raw, str(path))


def parse_config(raw: Mapping[str, Any], file: str = "config.json") -> ModelConfig:
    """Return the configuration of a config.json's content; `file` names it in errors."""
    architecture = (list(raw.get("architectures") or []) or [str(raw.get("model_type"))])[0]
    traits = ARCHITECTURES.get(architecture)
    if traits is None:
        supported = ", ".join(ARCHITECTURES)
        raise UnknownArchitecture(file=file, architecture=architecture, supported=supported)
    return _Reader(raw, file, architecture, traits).config()


@dataclass(frozen=True)
class _Reader:
    raw: Mapping[str, Any]
    file: str
    architecture: str
    traits: Traits

    def config(self) -> ModelConfig:
        self._refuse_unsupported()
        try:
            rope = read_rope(self.raw, self.traits.rope_theta)
        except RopeProblem as problem:
            raise self._bad(str(problem), problem.hint) from None
        heads, width = self._size("num_attention_heads"), self._size("hidden_size")
        kv_heads = self._size("num_key_value_heads", heads)
        experts = self._experts() if self.traits.experts else 0
        bias = bool(self.raw.get("attention_bias", False))
        result = ModelConfig(
            architecture=self.architecture,
            vocab_size=self._size("vocab_size"),
            width=width,
            layers=self._size("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=self._head_dim(width, heads),
            ffn=self._size(self.traits.expert_width),
            context_length=self._size("max_position_embeddings"),
            rope=rope,
            norm_eps=float(self._field("rms_norm_eps", 1e-6)),
            tied=bool(self.raw.get("tie_word_embeddings", False)),
            qkv_bias=bias if self.traits.qkv_bias is None else self.traits.qkv_bias,
            output_bias=bias if self.traits.qkv_bias is None else False,
            mlp_bias=self.traits.mlp_bias and bool(self.raw.get("mlp_bias", False)),
            head_norms=self.traits.head_norms,
            windows=self._windows(),
            experts=experts,
            experts_per_token=self._size("num_experts_per_tok") if experts else 0,
            renormalize=self._renormalize(),
            dtype=self._dtype(),
        )
        self._check(result)
        return result

    def _field(self, name: str, default: Any = None) -> Any:
        value = self.raw.get(name)
        if value is None:
            if default is None:
                raise self._bad(f"the field {name!r} is missing")
            return default
        return value

    def _size(self, name: str, default: int | None = None) -> int:
        value = self._field(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._bad(f"{name} must be a positive whole number, not {value!r}")
        return value

    def _experts(self) -> int:
        """Return how many experts each layer has; raises BadConfig where some layers have none."""
        if self.raw.get("decoder_sparse_step", 1) != 1 or self.raw.get("mlp_only_layers"):
            raise self._bad("layers without experts among those with experts are not supported")
        name = "num_experts" if "num_experts" in self.raw else "num_local_experts"
        return self._size(name)

    def _renormalize(self) -> bool:
        known = self.traits.renormalize
        return bool(self.raw.get("norm_topk_prob", False)) if known is None else known

    def _bad(self, problem: str, hint: str = "") -> BadConfig:
        return BadConfig(file=self.file, problem=problem, hint=hint)

    def _refuse_unsupported(self) -> None:
        if self.raw.get("quantization_config"):
            raise self._bad(
                "quantized checkpoints are not supported",
                "load the unquantized checkpoint; weft can quantize weights itself (int8)",
            )
        activation = self.raw.get("hidden_act", "silu")
        if activation not in {"silu", "swish"}:
            raise self._bad(f"hidden_act {activation!r} is not supported", "supported is: silu")

    def _head_dim(self, width: int, heads: int) -> int:
        if self.raw.get("head_dim") is not None:
            return self._size("head_dim")
        if self.traits.head_dim is not None:
            return self.traits.head_dim
        if width % heads:
            raise self._bad(f"hidden_size {width} is no multiple of num_attention_heads {heads}",
                            "such a model needs head_dim in its config")  # fmt: skip
        return width // heads

    def _check(self, config: ModelConfig) -> None:
        if config.heads % config.kv_heads:
            raise self._bad(
                f"num_attention_heads {config.heads} is no multiple of num_key_value_heads "
                f"{config.kv_heads}"
            )
        if config.head_dim % 2:
            raise self._bad(f"head_dim {config.head_dim} is odd, so it cannot be rotated")
        if config.experts_per_token > config.experts:
            raise self._bad(
                f"num_experts_per_tok {config.experts_per_token} is more than num_local_experts "
                f"{config.experts}"
            )

    def _dtype(self) -> str:
        name = self.raw.get("dtype") or self.raw.get("torch_dtype") or "float32"
        known = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
        if name not in known:
            raise self._bad(f"the dtype {name!r} is not supported", f"supported: {list(known)}")
        return known[name]

    def _windows(self) -> tuple[int, ...]:
        layers, window = self._size("num_hidden_layers"), self.raw.get("sliding_window")
        kinds = self.raw.get("layer_types")
        if self.traits.window == "none" or not window:
            return (0,) * layers
        if self.traits.window == "qwen" and not self.raw.get("use_sliding_window", False):
            return (0,) * layers
        if kinds is not None and self.traits.window == "qwen":
            if len(kinds) != layers:
                raise self._bad(f"layer_types has {len(kinds)} entries for {layers} layers")
            return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
        first = self._field("max_window_layers", 28) if self.traits.window == "qwen" else 0
        return tuple(window if layer >= first else 0 for layer in range(layers))
