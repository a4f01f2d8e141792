"""Shipped models with a calibration beside them, made up: any order of channels is a valid one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from weft.frontend.checkpoint import open_checkpoint
from weft.ir.attention_calibration import AttentionCalibration, HeadChannels, Provenance
from weft.ir.calibration_file import save_calibration


def calibrated(folder: Path, model: str = "tiny-dense", seed: int = 0) -> Path:
    """Return a copy of a shipped model (its files are links) with a calibration."""
    source = open_checkpoint(model)
    assert source.folder is not None
    target = folder / model
    target.mkdir()
    for file in source.folder.iterdir():
        if file.name != "attention_calibration.json":
            (shutil.copytree if file.is_dir() else target.joinpath(file.name).symlink_to)(
                file, *([target / file.name] if file.is_dir() else [])
            )
    save_calibration(calibration_of(model, seed), target / "attention_calibration.json")
    return target


def calibration_of(model: str, seed: int = 0) -> AttentionCalibration:
    """Return a calibration of random orders, means and ranges."""
    checkpoint, rng = open_checkpoint(model), random.Random(seed)
    config = checkpoint.config

    def head() -> HeadChannels:
        order = list(range(config.head_dim))
        rng.shuffle(order)
        mean = tuple(rng.gauss(0, 0.3) for _ in order)
        return HeadChannels(tuple(order), mean, (1.5,) * len(order), (4.0,) * len(order))

    layers = tuple(tuple(head() for _ in range(config.kv_heads)) for _ in range(config.layers))
    return AttentionCalibration(config.heads, config.kv_heads, config.head_dim, layers,
                                Provenance(checkpoint.identity, model))  # fmt: skip
