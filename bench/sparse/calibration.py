"""How long `weft calibrate-attention` takes of a model, weights read and all."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from weft.evaluation.calibration import calibrate_attention
from weft.frontend.checkpoints.checkpoint import ZOO, open_checkpoint
from weft.ir.sparse.calibration import AttentionCalibration

TEXT = ZOO / "heldout.txt"
TOKENS = 8192


def calibration(model: str, device: str = "cpu", tokens: int = TOKENS) -> dict[str, Any]:
    """Return the seconds from a model's name to its calibration, of so many tokens of held-out
    text; raises AssertionError where it is not one of all layers and tokens."""
    begun = perf_counter()
    checkpoint = open_checkpoint(model)
    found = calibrate_attention(checkpoint, TEXT, tokens, device=device)
    seconds = perf_counter() - begun
    layers = checkpoint.config.layers
    assert len(found.layers) == layers and found.provenance.tokens >= tokens, "not all was read"
    assert _tells_channels_apart(found), "all channels weigh the same"
    return {"seconds": seconds, "tokens": found.provenance.tokens, "layers": layers}


def _tells_channels_apart(found: AttentionCalibration) -> bool:
    """Whether each head's channels differ, and stand in an order of their own."""
    heads = [head for layer in found.layers for head in layer]
    return (
        all(len(set(head.deviation)) > 1 for head in heads)
        and len({head.order for head in heads}) > len(heads) / 2
    )
