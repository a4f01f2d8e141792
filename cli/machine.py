"""`weft models` and `weft calibrate`: what is shipped, and what this machine can do."""

from __future__ import annotations

from pathlib import Path

from ..cost_model.hardware_file import hardware_path
from ..ir.display.units import bytes_text
from .render import console, emit, remarks


def models(name: str | None) -> None:
    """List the shipped models, or print one's card."""
    from ..frontend.checkpoint import open_checkpoint, shipped_models

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


def calibrate(out: Path | None, threads: int, disk: bool = True, rounds: int = 9) -> None:
    """Measure the ceilings of every level here (CPU, disk, a GPU where there is one); save them."""
    from contextlib import nullcontext
    from dataclasses import replace

    from ..codegen.measure_cpu import cpu_probes
    from ..codegen.measure_disk import disk_probes
    from ..codegen.measure_gpu import gpu_probes, has_gpu, shared_probe
    from ..cost_model import hardware_file
    from ..cost_model.calibrate import calibrate as measure
    from ..options import Options

    options = Options.from_env()
    path = out or hardware_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    cpu = cpu_probes(threads or options.thread_count, options.cache)
    levels, links = [cpu], []
    if has_gpu():
        *caches, main = cpu.memories
        main = replace(main, shared=shared_probe(main.read[0]))
        level, links = gpu_probes()
        levels = [replace(cpu, memories=[*caches, main]), level]
    with disk_probes(path.parent) if disk else nullcontext() as found:
        if found is not None:
            levels, links = [*levels, found[0]], [*links, *found[1]]
        elif disk:
            remarks().print(f"the disk of {path.parent} has no room to be measured", markup=False)
        with remarks().status("measuring") as status:
            hardware = measure(
                "this-machine", levels, links, versions=cpu.versions,
                device=" with ".join(level.device for level in levels if level.device),
                rounds=rounds, report=lambda line: status.update(f"measuring {line}"),
            )  # fmt: skip
    hardware_file.save(hardware, path)
    emit(hardware_file.dumps(hardware))
    remarks().print(f"saved in {path}; weft explain and weft tune use it", markup=False)
