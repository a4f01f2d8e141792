"""`weft calibrate-attention` and `weft evaluate`: sparse attention prepared, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..options import BadOption
from .render import remarks


@dataclass(frozen=True)
class CalibrateOptions:
    """What `weft calibrate-attention` was asked for."""

    model: str
    text: Path
    tokens: int
    out: Path | None
    statistic: str
    target: str
    threads: int


def calibrate(options: CalibrateOptions) -> None:
    """Choose the channels of labels, and write them next to the checkpoint."""
    from time import perf_counter

    from ..evaluation.calibration import calibrate_attention
    from ..frontend.checkpoint import open_checkpoint
    from ..ir.attention_calibration import STATISTICS
    from ..ir.calibration_file import save_calibration

    if options.statistic not in STATISTICS:
        known = ", ".join(STATISTICS)
        raise BadOption(problem=f"--statistic is one of {known}, not {options.statistic!r}")
    if options.tokens < 1:
        raise BadOption(problem=f"--tokens must be positive, not {options.tokens}")
    checkpoint = open_checkpoint(options.model)
    out = options.out or checkpoint.calibration_file
    if out is None:
        raise BadOption(problem=f"{options.model} has no folder to write into: give --out FILE")
    device = use_device(options.target, options.threads)
    begun = perf_counter()
    with remarks().status(f"reading {options.text}"):
        found = calibrate_attention(
            checkpoint, options.text, options.tokens, options.statistic, device
        )
    save_calibration(found, out)
    remarks().print(
        f"{found.provenance.tokens} tokens, {len(found.layers)} layers of {found.kv_heads} "
        f"key/value heads in {perf_counter() - begun:.1f} s; saved in {out}",
        markup=False,
    )


def use_device(target: str, threads: int) -> str:
    """Return torch's name of the device; let torch use so many threads (0: as the options say)."""
    from ..codegen.threads import share_cores
    from ..options import Options
    from ..runtime.device import Device

    options = Options.from_env().changed(target=target)
    share_cores(threads or options.thread_count)
    return "cpu" if target == "cpu" else Device.find().place
