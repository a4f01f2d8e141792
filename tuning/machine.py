"""What `weft calibrate` measures here: every level that there is, and attention's kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

BESIDE = "attention beside copies"

if TYPE_CHECKING:
    from ..codegen.measure.attention import AttentionProbe
    from ..codegen.measure.cpu import CpuProbes
    from ..cost_model.hardware import Hardware


def calibrated(
    threads: int, cache: Path | None, rounds: int, disk: Path | None,
    report: Callable[[str], None] = lambda line: None,
) -> Hardware:  # fmt: skip
    """Measure this machine's CPU with so many threads, its GPU if there is one, and the disk of the
    folder `disk` if it has room; kernels of the probes come from `cache`, or are compiled."""
    from ..codegen.measure.disk import disk_probes
    from ..codegen.measure.gpu import beside_probe, gpu_probes, has_gpu, shared_probe
    from ..cost_model.calibrate import calibrate

    cpu = host_probes(threads, cache)
    levels, links = [cpu], []
    if has_gpu():
        *caches, main = cpu.memories
        main = replace(main, shared=shared_probe(main.read[0]))
        level, links = gpu_probes()
        vector = cpu.vector | {BESIDE: [beside_probe(cpu.vector["attention"][0])]}
        levels = [replace(cpu, memories=[*caches, main], vector=vector), level]
    with disk_probes(disk) if disk else nullcontext() as found:
        if found is not None:
            levels, links = [*levels, found[0]], [*links, *found[1]]
        return calibrate(
            "this-machine", levels, links, versions=cpu.versions,
            device=" with ".join(level.device for level in levels if level.device),
            rounds=rounds, report=report,
        )  # fmt: skip


def host_probes(threads: int, cache: Path | None = None, keys: int = 0) -> CpuProbes:
    """Return the probes of the CPU, attention's kernel among them: over so many bytes of keys and
    values (0: more than any cache holds)."""
    from ..codegen.measure.cpu import beyond_caches, cpu_probes, thread_counts

    cpu = cpu_probes(threads, cache)
    attention = attention_probe(cpu.threads, keys or beyond_caches(), cache)
    counts = attention.by_threads(thread_counts(cpu.threads))
    return replace(
        cpu, vector=cpu.vector | {"attention": [attention.measure()]},
        launch=cpu.launch | {"attention row": attention.row_start()},
        vector_by_threads={"attention": counts},
    )  # fmt: skip


def attention_probe(threads: int, size: int, cache: Path | None = None) -> AttentionProbe:
    """Return the probe of attention on the CPU over so many bytes of keys and values.

    Heads are Mixtral's (four share a key), keys are bf16, and steps are mostly decode.
    """
    from ..codegen.measure.attention import AttentionProbe
    from ..passes.tile.attention.paged import Attention, attention, tile_rows

    heads, kv_heads, head_dim = 32, 8, 128
    rows, few = tile_rows(heads // kv_heads, decoding=True)
    shape = Attention(heads, kv_heads, head_dim, kv="bf16", rows=rows, few=few)
    return AttentionProbe(attention(shape), threads, size, cache)
