"""`python -m bench.programs --http`: programs beside an HTTP server of the same engine."""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from weft.codegen.threads import share_cores

from ..contest.cases import CASES, ROOT, Case
from ..contest.contest import Bench, Contest, Way
from ..measure import geometric_mean
from .channel import Ended
from .deployment import Deployment
from .overhead import measure
from .race import race

Figures = dict[str, Any]
RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True)
class Setting:
    """Where programs run: their model and rows, the way, and where figures are kept."""

    bench: Bench
    rows_of: Callable[[Case], list[Any]]
    way: Way
    path: Path
    record: Callable[[Figures, list[str], Path], None]
    exact: bool = True
    """Whether an answer is the same in any batch."""
    few_cores: bool = False
    """Whether the processes share cores, with each other and with what else runs there."""
    prefix: str = ""
    """What names of figures over all programs begin with."""


def on_cpu(options: argparse.Namespace) -> Setting:
    """Return the setting of `bench.programs`: tiny-dense, the scaled memory."""
    from ..cpu import record

    os.environ["WEFT_THREADS"] = str(options.threads)
    share_cores(options.threads)
    rows_of: Callable[[Case], list[Any]] = lambda case: case.rows(options.quick)  # noqa: E731
    return Setting(Bench(), rows_of, Way(), RESULTS / "programs.json", record, few_cores=True)


def on_gpu(options: argparse.Namespace) -> Setting:
    """Return the setting of `bench.programs --target cuda`: an 8 B shape, everything fits."""
    from .. import programs_gpu
    from ..gpu_programs import record

    way = Way(kv_tokens=0, clients=programs_gpu.CLIENTS)
    keep = lambda found, sections, path: record(found, sections, options.commit, path)  # noqa: E731
    rows_of = partial(programs_gpu.rows_of, times=1 if options.quick else programs_gpu.TIMES)
    return Setting(programs_gpu.on_device(), rows_of, way, programs_gpu.RESULTS, keep,
                   exact=False, prefix="gpu_")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Race what is asked for, print it, record each part when it is done; return the status."""
    setting = on_gpu(options) if options.target == "cuda" else on_cpu(options)
    usual = 1 if options.quick else 3
    rounds = usual if options.rounds is None else max(1, options.rounds)
    found: Figures = {}
    failed: Figures = {}
    with Deployment(setting.bench.model, setting.few_cores) as deployment:
        overhead = {setting.prefix + figure: value for figure, value
                    in measure(deployment, setting.bench.model).items()}  # fmt: skip
        print("  ".join(f"{name} {value:.0f}" for name, value in overhead.items()), flush=True)
        for name in [name for name in options.only or CASES if name in CASES]:
            case = CASES[name]
            gc.collect()
            try:
                contest = Contest(setting.bench, case, setting.rows_of(case))
                found[name] = race(
                    contest, setting.way, deployment, rounds, options.idle, setting.exact
                )
            except Exception as error:  # one program's failure must not lose the others' figures
                failed[name] = f"{type(error).__name__}: {error}"
                print(f"{name:18s} failed: {failed[name]}", flush=True)
                if not isinstance(error, Ended):
                    continue
                try:
                    deployment.start()  # the others' processes
                except Exception as gone:
                    failed["processes"] = f"{type(gone).__name__}: {gone}"
                    break
                continue
            print(line(name, found[name]), flush=True)
            if options.record:
                keep(setting, name, found[name], overhead)
    over_all = summary(found, setting.prefix) if found else {}
    for key, value in over_all.items():
        print(f"  {key:32s} {value:.4f}")
    if options.json:
        print(json.dumps(over_all | overhead | found | ({"failed": failed} if failed else {})))
    return 1 if failed else 0


def keep(setting: Setting, name: str, figures: Figures, overhead: Figures) -> None:
    """Record a program's figures, and those over all that are recorded."""
    known: Figures = {}
    if setting.path.exists():
        known = json.loads(setting.path.read_text())["figures"].get("http", {})
    programs = {each: (known | {name: figures})[each] for each in CASES
                if each in known or each == name}  # fmt: skip
    sums = summary(programs, setting.prefix)
    found = {"http": programs} | overhead | sums
    setting.record(found, ["http", f"http {name}"], setting.path)


def line(name: str, found: Mapping[str, Any]) -> str:
    """Return one row of the table."""
    medians = {side: each["median"] for side, each in found["seconds"].items()}
    low, high = found["http_speedup_range"]
    cells = [
        f"{name:18s} {found['raced_rows']:3d} rows",
        *(f"{side} {seconds:.3f} s" for side, seconds in medians.items()),
        f"http/weft {found['http_speedup']:.2f} ({low:.2f} to {high:.2f})",
        f"by the wall's clock {found['http_wall_speedup']:.2f}",
        f"http/requests {found['http_over_requests']:.2f}",
        f"steps {'/'.join(str(each['steps']) for each in found['work'].values())}",
    ]
    if found["differing"]:
        cells.append(f"{len(found['differing'])} rows differ")
    return "  ".join(cells)


def summary(programs: Mapping[str, Figures], prefix: str = "") -> Figures:
    """Return the figures over all programs: means of those that have several calls."""
    staged = [found for name, found in programs.items() if CASES[name].staged]
    found: Figures = {"http_programs": len(programs)}
    for key in ("http_speedup", "http_wall_speedup", "http_over_requests"):
        if staged:
            found[f"{key}_geomean"] = geometric_mean(each[key] for each in staged)
        found[f"{key}_min"] = min(each[key] for each in programs.values())
    return {prefix + key: value for key, value in found.items()}
