"""Whether keys in host memory are fetched a layer ahead, and how many cross the link meanwhile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..ir.model import ModelConfig
from ..ir.sparse.policy import SparsePolicy
from ..ir.types import DTYPE_BYTES
from ..options import Options
from .formats import kv_dtype, weight_dtype

if TYPE_CHECKING:
    from ..cost_model.keys_ahead import Ahead


def link_window(config: ModelConfig, options: Options, hardware: str) -> float:
    """Return how many tokens' keys and values of one layer cross the link while a GPU reads a
    layer's weights; on a simulated one there is no such limit."""
    from ..cost_model.hardware_file import load

    if options.target != "cuda":
        return math.inf
    machine = load(hardware)
    weights = _layer_weights(config) * DTYPE_BYTES[weight_dtype(options)]
    seconds = weights / machine.of_kind("gpu").main.read.median
    token = 2 * config.kv_heads * config.head_dim * DTYPE_BYTES[kv_dtype(options)]
    return seconds * machine.link("cpu", "gpu").bandwidth.median / token


def _layer_weights(config: ModelConfig) -> float:
    """Return how many weights of a layer one token reads: of experts those that it goes to."""
    tables = config.vocab_size * config.width * (1 if config.tied else 2)
    each = (config.parameters - tables) / config.layers
    expert = 3 * config.width * config.ffn
    return each - expert * (config.experts - config.experts_per_token) if config.experts else each


def fetches_ahead(
    config: ModelConfig, options: Options, policy: SparsePolicy, hardware: str
) -> Ahead | None:
    """Return what it costs and saves to predict what the next layer reads, of the longest sequence
    that host memory holds; None on a simulated GPU, whose link has no rate: it predicts."""
    from ..cost_model.expected_reads import expected_tokens
    from ..cost_model.hardware_file import load
    from ..cost_model.keys_ahead import ahead
    from ..cost_model.sparse_bytes import AttentionShape
    from ..runtime.execution.sparse_decode import MISSED, ahead_share

    if options.target != "cuda":
        return None
    machine = load(hardware)
    shape = AttentionShape(config.heads, config.kv_heads, config.head_dim, kv_dtype(options))
    longest = min(
        config.context_length, int(options.kv_host_memory / (config.layers * shape.token))
    )
    selected = int(expected_tokens(policy, longest))
    share = ahead_share(link_window(config, options, hardware), selected)
    made = config.width * (config.heads + 2 * config.kv_heads) * config.head_dim
    product = made * DTYPE_BYTES[weight_dtype(options)]
    link = machine.link("cpu", "gpu").bandwidth.median
    return ahead(shape, machine.of_kind("gpu"), policy, longest, product,
                 share * MISSED * selected, link)  # fmt: skip
