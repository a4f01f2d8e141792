"""`weft models` and `weft calibrate`: what is shipped, and what this machine can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cost_model.hardware_file import hardware_path
from ..ir.display.units import bytes_text
from .output import check_file, failed, write_file
from .render import console, emit, remarks

if TYPE_CHECKING:
    from ..cost_model.hardware import Hardware


def models(name: str | None) -> None:
    """List the shipped models, or print one's card."""
    from ..frontend.checkpoints.checkpoint import open_checkpoint, shipped_models

    if name is not None:
        folder = open_checkpoint(name).folder
        card = folder / "MODEL_CARD.md" if folder else None
        emit(card.read_text() if card and card.exists() else f"{name} has no card")
        return
    from rich.table import Table

    table = Table("model", "architecture", "layers", "width", "vocabulary", "context", "weights")
    for shipped in shipped_models():
        checkpoint = open_checkpoint(shipped)
        config = checkpoint.config
        files = list((checkpoint.folder or Path()).glob("*.safetensors"))
        size = bytes_text(sum(file.stat().st_size for file in files)) if files else "missing"
        experts = f", {config.experts_per_token} of {config.experts} experts" * bool(config.experts)
        table.add_row(
            shipped, config.architecture + experts, str(config.layers), str(config.width),
            str(config.vocab_size), str(config.context_length), size,
        )  # fmt: skip
    console().print(table)
    remarks().print("A folder in Hugging Face form works too: weft run FILE --model FOLDER")


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of `weft calibrate`, as the command line has them."""

    out: Path | None
    threads: int
    disk: bool
    rounds: int
    json: bool


def calibrate(options: CalibrateOptions) -> None:
    """Measure the ceilings of every level here (CPU, disk, a GPU where there is one); save them."""
    from ..cost_model import hardware_file
    from ..cost_model.report import figure_table

    path = options.out or hardware_path()
    threads = _checked(options, path)
    hardware = _measured(path.parent, threads, options)
    text = hardware_file.dumps(hardware)
    emit(text if options.json else figure_table(hardware.figures()))
    write_file(path, "--out", text)
    remarks().print(f"saved in {path}; {_use_of(hardware, path)}", markup=False)


def _checked(options: CalibrateOptions, path: Path) -> int:
    """Return how many threads measure; raises BadOption and NotWritten before anything does."""
    from ..codegen.threads import available_cores
    from ..options import BadOption, Options

    threads, cores = options.threads or Options.from_env().thread_count, available_cores()
    if options.rounds < 1:
        raise BadOption(problem=f"--rounds must be at least 1, not {options.rounds}")
    if not 0 < threads <= cores:
        problem = f"--threads are from 1 to {cores}, not {threads}"
        raise BadOption(problem=problem, hint="this process may use no more cores; 0: all of them")
    if options.out is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(path, "--out", error) from None
    check_file(path, "--out")
    return threads


def _measured(folder: Path, threads: int, options: CalibrateOptions) -> Hardware:
    from ..options import Options
    from ..tuning.machine import calibrated

    with remarks().status("measuring") as status:
        hardware = calibrated(
            threads, Options.from_env().cache, options.rounds, folder if options.disk else None,
            lambda line: status.update(f"measuring {line}"),
        )  # fmt: skip
    if options.disk and "disk" not in {level.name for level in hardware.levels}:
        remarks().print(f"the disk of {folder} has no room to be measured", markup=False)
    return hardware


def _use_of(hardware: Hardware, path: Path) -> str:
    """Return which commands take the file, and how."""
    gpu = any(level.kind == "gpu" for level in hardware.levels)
    if path != hardware_path():
        tune = f"; weft tune takes it with --hardware {path}" if gpu else ""
        return f"weft explain and weft kernels read {hardware_path()} instead{tune}"
    without = "weft tune an H200's, since no GPU was measured"
    return "weft explain, weft kernels and weft tune use it" if gpu else (
        f"weft explain and weft kernels use it, {without}")  # fmt: skip
