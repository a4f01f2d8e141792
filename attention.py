"""Sparse attention that a compilation asks for: its policy, the model's calibration, its price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .frontend.checkpoint import Checkpoint
from .ir.attention_calibration import AttentionCalibration, NotCalibrated
from .ir.calibration_file import load_calibration
from .ir.sparse import SparsePolicy, parse_policy
from .options import Options

if TYPE_CHECKING:
    from .passes.tile.regimes import Regime, Sparse
    from .runtime.sparse_decode import SparseDecode

HARDWARE = {"cpu": "cpu-generic", "cuda": "h200"}
"""Whose prices say where sparse attention pays, by target."""


@dataclass(frozen=True)
class Attention:
    """A policy with the calibration that it needs."""

    policy: SparsePolicy
    calibration: AttentionCalibration
    always: bool = False
    hardware: str = "cpu-generic"

    @property
    def passes(self) -> Sparse:
        """Return what the model's passes take."""
        from .passes.tile.regimes import Sparse

        return Sparse(str(self.policy), self.hardware, self.always)


def asked_attention(checkpoint: Checkpoint, options: Options, text: str) -> Attention | None:
    """Return the sparse attention of a policy's text, or None for `dense`.

    Raises BadPolicy, NotCalibrated, OtherModel, BadCalibration: what the model and its calibration
    cannot do is found here, before anything is compiled.
    """
    policy = parse_policy(text)
    if policy is None:
        return None
    config = checkpoint.config
    policy.check_layers(config.layers)
    policy.label_channels(config.head_dim)
    file = checkpoint.calibration_file
    if file is None:
        raise NotCalibrated(model=checkpoint.name, file="folder to keep one in")
    calibration = load_calibration(file, config, checkpoint.identity, checkpoint.name)
    calibration.check_labels(policy.labels)
    return Attention(policy, calibration, options.attention_always, HARDWARE[options.target])


def sparse_decode(
    attention: Attention | None, regimes: list[Regime], checkpoint: Checkpoint, options: Options,
    pages: int, page_size: int, device: str = "cpu",
) -> SparseDecode | None:  # fmt: skip
    """Return what an executor needs for sparse decode steps; None where no regime has them."""
    from .runtime.sparse_decode import SparseDecode, label_memory

    functions = [regime.function for regime in regimes if regime.sparse]
    if attention is None or not functions:
        return None
    config, policy = checkpoint.config, attention.policy
    layers = label_memory(config, policy, attention.calibration, pages, page_size, device)
    least = functions[0]["attention"]["least"]
    return SparseDecode(policy, least, layers, options.max_batch, config.context_length)
