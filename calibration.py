"""What `weft calibrate` measures here: every level that there is, and attention's kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .ir.core import Operation

if TYPE_CHECKING:
    from .codegen.measure_attention import AttentionProbe
    from .cost_model.hardware import Hardware


def attention_kernel() -> Operation:
    """Return the kernel of attention on the CPU that is measured: Mixtral's heads (four share a
    key), keys of bf16, steps that are mostly decode."""
    from .passes.tile.attention import Attention, attention, tile_rows

    heads, kv_heads, head_dim = 32, 8, 128
    rows = tile_rows(heads // kv_heads, decoding=True)
    return attention(Attention(heads, kv_heads, head_dim, kv="bf16", rows=rows))


def attention_probe(threads: int, size: int, cache: Path | None = None) -> AttentionProbe:
    """Return the probe of attention over so many bytes of keys and values; compiles its kernel."""
    from .codegen.measure_attention import AttentionProbe

    return AttentionProbe(attention_kernel(), threads, size, cache)
