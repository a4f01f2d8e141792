"""What a checkpoint's configuration says: shapes, rotary settings, windows, experts; data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .core import Table


@dataclass(frozen=True)
class Rope:
    """Rotary settings; `kind` is default, linear, llama3 or yarn, and the rest serve the kinds.

    `original_context` and the low/high factors belong to llama3, the betas and `truncate` to
    yarn; `attention_factor` scales cos and sin (so scores by its square).
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True

    def table(self) -> Table:
        """Return the settings that differ from the default, as an attribute."""
        kept = {"kind": self.kind, "theta": self.theta}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in kept and value != item.default:
                kept[item.name] = value
        return Table.of(kept)

    @staticmethod
    def of(table: Table) -> Rope:
        """Return the settings of an attribute: the inverse of `table`."""
        return Rope(**dict(table.items))

    def inverse_frequencies(self, head_dim: int) -> list[float]:
        """Return radians per position of each of the head_dim / 2 rotated pairs."""
        plain = [self.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        if self.kind == "linear":
            return [frequency / self.factor for frequency in plain]
        if self.kind == "llama3":
            return [self._llama3(frequency) for frequency in plain]
        if self.kind == "yarn":
            return self._yarn(plain, head_dim)
        return plain

    def _llama3(self, frequency: float) -> float:
        """Long waves are slowed down by the factor, short ones kept, those between blended."""
        turns = self.original_context * frequency / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if turns > high:
            return frequency
        if turns < low:
            return frequency / self.factor
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * frequency / self.factor + smooth * frequency

    def _yarn(self, plain: list[float], head_dim: int) -> list[float]:
        """Blend by pair index, between the pairs that turn beta_fast and beta_slow times."""

        def pair_that_turns(turns: float) -> float:
            wave = self.original_context / (turns * 2 * math.pi)
            return head_dim * math.log(wave) / (2 * math.log(self.theta))

        low, high = pair_that_turns(self.beta_fast), pair_that_turns(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = (high - low) or 0.001
        ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(head_dim // 2)]
        return [f / self.factor * r + f * (1 - r) for f, r in zip(plain, ramp, strict=True)]


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape. Letters as in `ir.dialects.graph`: D width, H heads, K kv_heads, ...

    `windows` has one entry a layer, 0 where the layer sees everything. `experts` is 0 for a dense
    model; `experts_per_token` experts of width `ffn` serve a token otherwise, with weights that sum
    to one if they `renormalize`.
    """

    architecture: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context_length: int
    rope: Rope
    norm_eps: float = 1e-6
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    windows: tuple[int, ...] = ()
    experts: int = 0
    experts_per_token: int = 0
    renormalize: bool = True
    dtype: str = "bf16"

    @property
    def parameters(self) -> int:
        """The number of weights (biases and norms of heads left out)."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        ffn = 3 * self.width * self.ffn * max(self.experts, 1) + self.experts * self.width
        tables = self.vocab_size * self.width * (1 if self.tied else 2)
        return tables + self.width + self.layers * (attention + ffn + 2 * self.width)

    def table(self) -> Table:
        """Return the configuration as an attribute; `rope` and `windows` are left to the ops."""
        left_out = {"rope", "windows"}
        return Table.of(
            {item.name: getattr(self, item.name) for item in fields(self)
             if item.name not in left_out and getattr(self, item.name) != item.default}
        )  # fmt: skip
