"""Decode kernels on this CPU as fractions of its read bandwidth, measured in the same rounds.

    python bench/matvec.py [--seconds 60] [--json] [--threads 2]

Each launch of a case is paired with a stream read of as many bytes just before it, and the median
of these ratios counts: on a shared machine both are disturbed alike, long launches and short.
Weights rotate through copies larger than the last-level cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from weft.codegen.build import compile_kernels
from weft.codegen.threads import configure_threads
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.attention import paged as attention
from weft.passes.tile.builder import KernelBuilder
from weft.passes.tile.products.matmul import Matmul, blocks, matmul, schedule
from weft.runtime.execution.dtypes import TORCH

MIB = 1 << 20
SHAPES = ((2048, 2048), (8192, 2048), (2048, 8192), (32000, 2048))
FORMATS = ("f32", "bf16", "i8")
ROW = 4096


@dataclass
class Case:
    """Something to launch: `run(i)` reads `bytes` bytes that the launch before did not."""

    name: str
    run: Callable[[int], object]
    bytes: int
    best: float = field(default=float("inf"))
    count: int = 0
    ratios: list[float] = field(default_factory=list)

    def once(self) -> None:
        """Launch once and keep the best time."""
        start = time.perf_counter()
        self.run(self.count)
        self.best = min(self.best, time.perf_counter() - start)
        self.count += 1

    @property
    def bandwidth(self) -> float:
        """Bytes a second of the best launch."""
        return self.bytes / self.best


def stream(rows: int) -> Operation:
    """Return a kernel that sums an array, `rows` rows of 16 KiB at a time."""
    b = KernelBuilder(f"stream_{rows}")
    b.scalar("n")
    x, out = b.buffer("x", "f32", "n", ROW), b.buffer("out", "f32", "n")
    row = b.map(f"a * {rows} + b", b.program_id(0), b.iota(rows), dtype="i32")
    start, ones = b.full(0.0, "f32", 1, rows), b.full(1.0, "f32", 1, 256)
    with b.loop(b.full(0, "i32"), b.full(ROW, "i32"), start, step=256) as loop:
        column = b.map("a + b", loop.index, b.iota(256), dtype="i32")
        part = b.load(x, b.expand(row, 1), b.expand(column, 0))
        loop.yields(b.dot(ones, part, loop.carried[0], transpose_b=True))
    b.store(out, row, b.reshape(loop.results[0], rows))
    return b.finish(f"n // {rows}")


def roofs(cache: Path, size: int = 8 * MIB) -> list[Case]:
    """Return stream kernels of several widths; the fastest is the roof."""
    memory = torch.zeros(20, size // (4 * ROW), ROW)
    out, rows = torch.empty(memory.shape[1]), memory.shape[1]
    cases = []
    for width in (1, 2, 4, 8):
        schedule = Schedule(unroll=max(1, 8 // width))
        launch = compile_kernels([(stream(width), schedule)], cache=cache)[f"stream_{width}"].launch
        offset = 5 * len(cases)
        cases.append(Case(
            f"stream_{width}",
            lambda i, launch=launch, offset=offset: launch(rows, memory[(i + offset) % 20], out),
            size,
        ))  # fmt: skip
    return cases


def matvec(n: int, k: int, weight: str, cache: Path, rows: int = 1) -> Case:
    """Return a matmul of a few rows with weights of one format."""
    block_n, block_k = blocks(n, k, rows)
    shape = Matmul(n, k, weight, rows, block_n=block_n, block_k=block_k)
    launch = compile_kernels([(matmul(shape), schedule(n, k, rows, weight))], cache=cache)[
        shape.name
    ].launch
    size = n * k * TORCH[weight].itemsize
    copies = max(2, min(24, 96 * MIB // size))
    weights = [torch.ones(n, k).to(TORCH[weight]) for _ in range(copies)]
    x, out = torch.randn(rows, k), torch.empty(rows, n)
    scale = [torch.rand(n)] if weight == "i8" else []
    return Case(f"{weight}_{n}x{k}" + (f"_rows{rows}" if rows > 1 else ""),
                lambda i: launch(rows, x, weights[i % copies], out, *scale), size)  # fmt: skip


def decode_attention(head_dim: int, page: int, cache: Path, keys: int = 4096) -> Case:
    """Return decode attention of one sequence, 32 query and 8 key heads, scattered pages."""
    shape = attention.Attention(32, 8, head_dim, page)
    built = compile_kernels([(attention.decode(shape), Schedule())], cache=cache)
    (kernel,) = built.values()
    pages, copies = keys // page, 6
    pools = [torch.randn(2, pages, 8, page, head_dim) for _ in range(copies)]
    table = torch.randperm(pages, dtype=torch.int32)[None]
    q, out = torch.randn(1, 32 * head_dim), torch.empty(1, 32 * head_dim)
    lengths = torch.tensor([keys], dtype=torch.int32)

    def run(i: int) -> None:
        k, v = pools[i % copies]
        kernel.launch(1, pages, pages, q, table, lengths, k, v, out)

    return Case(f"attention_{head_dim}_{page}", run, 2 * keys * 8 * head_dim * 4)


def measure(cases: list[Case], cache: Path, seconds: float) -> Case:
    """Run rounds of everything for some seconds; return the roof, the fastest stream kernel."""
    tops = roofs(cache)
    for _ in range(20):
        for top in tops:
            top.once()
    roof = max(tops, key=lambda top: top.bandwidth)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for case in cases:
            start = time.perf_counter()
            reads = max(1, round(case.bytes / roof.bytes))
            for _ in range(reads):
                roof.once()
            rate = reads * roof.bytes / (time.perf_counter() - start)
            start = time.perf_counter()
            case.once()
            case.ratios.append(case.bytes / (time.perf_counter() - start) / rate)
    return roof


def fraction(cases: list[Case]) -> float:
    """Return the bandwidth of all cases together over the roof's: bytes over times they imply."""
    times = sum(case.bytes / median(case.ratios) for case in cases)
    return sum(case.bytes for case in cases) / times


def results(seconds: float, cache: Path) -> dict[str, float]:
    """Measure every format and attention; return fractions by name."""
    groups = {
        f"matvec_{weight}_fraction": [matvec(n, k, weight, cache) for n, k in SHAPES]
        for weight in FORMATS
    }
    groups["attention_fraction"] = [
        decode_attention(head_dim, page, cache) for head_dim in (64, 128) for page in (16, 32)
    ]
    cases = [case for group in groups.values() for case in group]
    roof = measure(cases, cache, seconds)
    found = {name: fraction(group) for name, group in groups.items()}
    found |= {case.name: median(case.ratios) for case in cases}
    return {"roof_gb_per_s": roof.bandwidth / 1e9, **found}


def main() -> None:
    """Print the fractions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    configure_threads(options.threads)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        found = results(options.seconds, Path(cache))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:28} {value:.3f}")


if __name__ == "__main__":
    main()
