"""Attention kernels on a GPU, beside a copy and the vendor's in the same run.

    python -m bench.gpu_kernels                    decode, its peers, the cascade grid, prompts
    python -m bench.gpu_kernels --json --record    last line one JSON object; kept in bench/results
    python -m bench.gpu_kernels --only decode

Every time is the median of replays of a CUDA graph whose launches rotate through sets of pages,
so that what is not shared comes from memory. GB/s are bytes of keys and values over time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from weft.bench.gpu.attention import (
    Decode,
    Kernels,
    Pools,
    Sequences,
    copy_rate,
    scheduled,
)
from weft.bench.gpu.compile_ahead import compile_ahead
from weft.bench.gpu.prompts import prompts_figures
from weft.bench.gpu.vendor import vendor_seconds
from weft.compiler.attention_ways import attention_ways
from weft.ir.schedule import Schedule
from weft.passes.tile.attention.parts import Parts
from weft.passes.tile.attention.ways import Variant, groups
from weft.runtime.attention.cost import Way
from weft.runtime.attention.plan import WorkList, plan_among
from weft.runtime.attention.ways import GROUPED, UNGROUPED, named

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "gpu_kernels.json"
LLAMA = Parts(32, 8, 128)
PAGES = (16, 64, 128)
DECODE = ((64, 4096), (32, 4096), (256, 512), (2, 65536), (1, 65536), (2, 16384), (16, 1024),
          (64, 512), (1, 8192), (1, 4096), (4, 1024), (8, 512), (1, 1024))  # fmt: skip
"""Batches of the decode section: sequences, keys of each."""
LARGE = 512 << 20
"""Bytes of KV from which decode is held against the copy."""
HEADS = ((32, 8), (64, 8), (8, 1))
BATCHES, PREFIXES = (4, 16, 64, 256), (512, 2048, 8192, 16384)
TREES = (Sequences(64, 2048, 256, 8, 1024), Sequences(128, 1024, 64, 8, 1024),
         Sequences(64, 16384, 64), Sequences(16, 32768, 128))  # fmt: skip
CASCADE = [(heads, Sequences(count, prefix, 256)) for heads in HEADS for count in BATCHES
           for prefix in PREFIXES] + [(HEADS[0], tree) for tree in TREES]  # fmt: skip
Figures = dict[str, Any]


@dataclass
class Bench:
    """What the sections share: kernels by shape, one pool of pages at a time, the copy's rate."""

    folder: Path
    copy: float
    chained: bool = True
    pool_bytes: int = 3 << 30

    def __post_init__(self) -> None:
        self._kernels: dict[tuple[Parts, Schedule, int, bool], Kernels] = {}
        self._pools: tuple[Parts, Pools] | None = None

    def kernels(self, shape: Parts, schedule: Schedule, rows: int, together: bool) -> Kernels:
        """Return the launchers of some tiles for steps of so many rows; `together`: items of one
        row are read several a program."""
        key = shape, replace(schedule, chained=self.chained), rows, together
        if key not in self._kernels:
            self._kernels[key] = Kernels.of(*key[:2], self.folder, rows, together)
        return self._kernels[key]

    def pools(self, shape: Parts) -> Pools:
        """Return pages of a shape; those of another are given back first."""
        size = replace(shape, heads=shape.kv_heads)
        if self._pools is None or self._pools[0] != size:
            self._pools = None
            torch.cuda.empty_cache()
            page = 4 * shape.kv_heads * shape.page * shape.head_dim
            self._pools = size, Pools.random(self.pool_bytes // page, shape)
        return self._pools[1]

    def compile(self, cells: Iterable[tuple[Parts, Sequences, bool | None]]) -> None:
        """Compile what cells (shape, sequences, cascade) take, many kernels at a time."""
        kernels = []
        for shape, of, cascade in cells:
            (name, tiles, schedule), _, _ = self.choice(shape, of, cascade)
            schedule = replace(schedule, chained=self.chained)
            kernels += scheduled(tiles, schedule, of.count, name == GROUPED)
        compile_ahead(kernels, self.folder)

    def choice(
        self, shape: Parts, of: Sequences, cascade: bool | None = None
    ) -> tuple[Variant, Way, WorkList]:  # fmt: skip
        """Return the kernels that the planner finds best, by the name that the engine knows them
        by, the way that it plans for, and a list of it."""
        ways = {
            replace(way, grouped=way.name == UNGROUPED and groups(kernels.tiles)): kernels
            for way, kernels in attention_ways(shape).items()
        }  # fmt: skip
        batch = of.batch(shape, np.arange(of.pages(shape)))
        way, work = plan_among(batch, list(ways), cascade=cascade)
        read = named(way, work.item_rows, work.item_high - work.item_low)
        return ways[way]._replace(name=read), way, work

    def steps(
        self, shape: Parts, of: Sequences, cascade: bool | None = None, in_order: bool = False
    ) -> Decode:
        """Return decode steps, planned as the engine plans; `cascade` forces one choice. Pages lie
        anywhere, or `in_order` of memory."""
        (name, tiles, schedule), way, _ = self.choice(shape, of, cascade)
        kernels = self.kernels(tiles, schedule, of.count, name == GROUPED)
        steps = Decode(kernels, of, self.pools(shape),
                       lambda batch: plan_among(batch, [way], cascade=cascade)[1],
                       in_order)  # fmt: skip
        steps.schedule, steps.way = schedule, name
        return steps

    def close(self) -> None:
        """Give the pages back."""
        self._pools = None
        torch.cuda.empty_cache()


def decode(bench: Bench) -> Figures:
    """Decode attention over pages, without sharing: GB/s beside the copy.

    The smallest pages are also read in the order of memory, in which the peers' keys lie.
    """
    figures: Figures = {"copy_tb_s": bench.copy / 1e12}
    worst = {}
    shapes = [replace(LLAMA, page=page) for page in PAGES]
    bench.compile((shape, Sequences(count, 0, keys), False) for shape in shapes
                  for count, keys in DECODE)  # fmt: skip
    for page in PAGES:
        shape = replace(LLAMA, page=page)
        for count, keys in DECODE:
            of = Sequences(count, 0, keys)
            steps = bench.steps(shape, of, cascade=False)
            error, time = steps.error(), steps.seconds()
            rate = of.flat_bytes(shape) / time
            figures[f"decode_{count}x{keys}_page{page}"] = {
                "us": time * 1e6, "tb_s": rate / 1e12, "of_copy": rate / bench.copy,
                "predicted_us": steps.work.seconds * 1e6, "items": len(steps.work.item_row),
                "way": steps.way, "error": error,
            }  # fmt: skip
            if page == min(PAGES):
                ordered = bench.steps(shape, of, cascade=False, in_order=True).seconds()
                figures[f"decode_{count}x{keys}_page{page}"]["in_order_us"] = ordered * 1e6
            if of.flat_bytes(shape) >= LARGE:
                worst[page] = min(worst.get(page, 9.0), rate / bench.copy)
            print(f"  {count:4}x{keys:<6} page {page:3}: {time * 1e6:7.1f} us "
                  f"{rate / 1e12:5.2f} TB/s {rate / bench.copy:5.2f} of copy, error {error:.1e}",
                  flush=True)  # fmt: skip
    figures |= {f"decode_attention_fraction_of_copy_page{p}": w for p, w in worst.items()}
    figures["decode_attention_fraction_of_copy"] = min(worst.values())
    return figures


def peers(bench: Bench) -> Figures:
    """The vendor's decode attention over contiguous keys, and ours over pages, size by size."""
    bench.close()
    found: Figures = {}
    for count, keys in DECODE:
        times = vendor_seconds(LLAMA, count, keys)
        found[f"peers_{count}x{keys}"] = {name: time * 1e6 for name, time in times.items()}
        text = ", ".join(f"{name} {time * 1e6:.1f}" for name, time in times.items())
        print(f"  {count:4}x{keys:<6} us: {text}", flush=True)
    return found


def cascade(bench: Bench) -> Figures:
    """Forks of a prefix: flat, cascade, what the model chooses, and its regret.

    Cascades are held against four times: at the roofs, with launches as measured and as the model's
    examples assume them (`ASSUMED`), with what roofs leave out (`ideal`), and as planned, with
    rates that were measured kernel by kernel, latencies and joins included.
    """
    figures: Figures = {}
    regrets, gaps = [], []
    grid = [(Parts(heads, kv_heads, 128, page=64), of, cascade)
            for (heads, kv_heads), of in CASCADE for cascade in (False, True, None)]  # fmt: skip
    bench.compile(grid)
    launch = bench.steps(replace(LLAMA, page=64), Sequences(1, 0, 64)).seconds()
    for (heads, kv_heads), of in CASCADE:
        shape = Parts(heads, kv_heads, 128, page=64)
        flat, shared, chosen = (bench.steps(shape, of, way) for way in (False, True, None))
        times = {"flat": flat.seconds(), "cascade": shared.seconds()}
        same = next((n for n, s in (("flat", flat), ("cascade", shared))
                     if (s.way, s.work.runs) == (chosen.way, chosen.work.runs)), None)  # fmt: skip
        times["chosen"] = times[same] if same else chosen.seconds()
        model, whole = (ideal(shape, of, bench.copy, all) + EXTRA * launch
                        for all in (False, True))  # fmt: skip
        regret = times["chosen"] / min(times.values()) - 1
        regrets.append(regret)
        assumed = model + ASSUMED - EXTRA * launch
        gaps.append([times["cascade"] / of_all
                     for of_all in (model, assumed, whole, shared.work.seconds)])  # fmt: skip
        name = f"{heads}_{kv_heads}_{of.count}x{of.prefix}+" + (
            f"{of.groups}x{of.middle}+{of.own}" if of.middle else str(of.own))  # fmt: skip
        figures[f"cascade_{name}"] = {
            **{f"{way}_us": time * 1e6 for way, time in times.items()},
            "choice": same or "mixed", "way": chosen.way, "regret": regret, "model_us": model * 1e6,
            "model_with_exps_us": whole * 1e6, "planned_us": shared.work.seconds * 1e6,
            "predicted_us": chosen.work.seconds * 1e6, "error": shared.error(),
            "speedup": times["flat"] / times["cascade"],
        }  # fmt: skip
        print(f"  {name:28} flat {times['flat'] * 1e6:8.1f} cascade {times['cascade'] * 1e6:7.1f} "
              f"chose {same or 'mixed':7} regret {regret * 100:4.1f} % "
              f"cascade/model {gaps[-1][0]:5.2f}, its examples' {gaps[-1][1]:5.2f}, "
              f"with exps {gaps[-1][2]:5.2f}, planned {gaps[-1][3]:5.2f}", flush=True)  # fmt: skip
    forks = figures["cascade_32_8_64x16384+64"]
    figures["cascade_16k_x64_speedup"] = forks["speedup"]
    figures["cascade_regret_max"] = max(regrets)
    names = ("model", "model_of_examples", "model_with_exps", "planned")
    for place, name in enumerate(names):
        ratios = [gap[place] for gap in gaps]
        figures[f"cascade_time_over_{name}_max"] = max(ratios)
        figures[f"cascade_cells_within_15_percent_of_{name}"] = within(ratios)
    return figures


EXTRA = 2
"""Launches that a cascade has beside that of few rows' items: of many rows' items, and the join."""

ASSUMED = 8e-6
"""Seconds that the model's own examples assume for these launches, of which ours take less."""


def within(ratios: Sequence[float], most: float = 0.15) -> float:
    """Return the part of times over predictions that are at most so much above 1; no time is too
    short."""
    return sum(ratio <= 1 + most for ratio in ratios) / len(ratios)


PRODUCTS, TILE = 989e12, 64
"""The datasheet's dense bf16 operations a second of an H200, and the rows of its smallest product
of a warp group."""
EXPS = PRODUCTS / 4096 * 16
"""Exponentials a second: a multiprocessor makes 4096 such operations a clock, and 16 of these."""


def ideal(shape: Parts, of: Sequences, copy: float, whole: bool = False) -> float:
    """Return the seconds of a cascade at the roofs, without launches: each shared run once at the
    copy's rate, or its products at three quarters of the datasheet's rate, whichever takes longer;
    own keys and states at the copy's rate.

    `whole`: with what that leaves out of a shared run. Its rows fill whole tiles, and a tile's
    exponentials stand between its two products: what forms these waits for the other.
    """
    key = 4 * shape.kv_heads * shape.head_dim

    def run(keys: int, rows: int, times: int) -> float:
        heads = rows * shape.group
        heads = shape.kv_heads * (-(-heads // TILE) * TILE if whole else heads)
        work = 4.0 * heads * keys * shape.head_dim / (0.75 * PRODUCTS)
        work += heads * keys / EXPS if whole else 0.0
        return times * max(keys * key / copy, work)

    total = run(of.prefix, of.count, 1) + run(of.middle, of.count // of.groups, of.groups)
    own = of.count * of.own * key / copy
    states = 3 * of.count * shape.heads * shape.head_dim * 4 / copy
    return total + own + states


def prompts(bench: Bench) -> Figures:
    """Attention of prompts over pages, beside the vendor's over contiguous keys."""
    return prompts_figures(replace(LLAMA, page=64), bench.folder)


SECTIONS: dict[str, Callable[[Bench], Figures]] = {
    "decode": decode, "peers": peers, "cascade": cascade, "prompts": prompts,
}  # fmt: skip


def compare(figures: Figures) -> Figures:
    """Return, where both were measured, the most that our time is of the best peer's: of all
    sizes, and of those below LARGE; with pages anywhere, and in the order of memory."""
    found: Figures = {}
    for page, (which, mark) in product(PAGES, (("us", ""), ("in_order_us", "_in_order"))):
        ratios = {}
        for count, keys in DECODE:
            theirs = figures.get(f"peers_{count}x{keys}")
            ours = figures.get(f"decode_{count}x{keys}_page{page}", {})
            if theirs and which in ours:
                size = Sequences(count, 0, keys).flat_bytes(LLAMA)
                ratios[size, count, keys] = ours[which] / min(theirs.values())
        small = [ratio for (size, *_), ratio in ratios.items() if size < LARGE]
        for name, some in (("max", list(ratios.values())), ("small_max", small)):
            if some:
                found[f"decode_over_best_peer_{name}_page{page}{mark}"] = max(some)
    return found


def provenance() -> Figures:
    """Return what the figures depend on: machine, versions, commit, date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "machine": {"gpu": torch.cuda.get_device_name(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "triton": version("triton"), "cuda": torch.version.cuda},
        "commit": os.environ.get("WEFT_COMMIT") or commit,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def record(figures: Figures, sections: list[str], path: Path) -> None:
    """Merge figures into the results file; each section keeps when and where it was measured."""
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}, "sections": {}}
    known["figures"] |= figures
    known["sections"] |= dict.fromkeys(sections, provenance())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--unchained", action="store_true", help="no launch before the last ends")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", nargs="?", type=Path, const=RESULTS, help="merge into a file")
    options = parser.parse_args()
    figures: Figures = {}
    names = options.only or list(SECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), copy_rate(), not options.unchained)
        print(f"copy {bench.copy / 1e12:.2f} TB/s on {torch.cuda.get_device_name()}")
        for name in names:
            print(f"== {name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
            figures |= SECTIONS[name](bench)
            figures |= compare(figures)
            if options.record:
                record(figures, names[: names.index(name) + 1], options.record)
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"{key} {value:.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
