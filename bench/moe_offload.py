"""A mixture-of-experts model larger than its GPU: weft against accelerate and other schedules.

    python -m bench.moe_offload --json --record        one GPU capped at 16 GB, Mixtral of 16 layers
    python -m bench.moe_offload --only schedules       one section
    python -m bench.moe_offload --smoke                every path once, two layers: what fails
    python -m bench.moe_offload --tiny --json          tiny-moe on a simulated GPU: the code alone

All schedules run on weft's own kernels on equal terms: the same batch, micro-batches, cap and host
memory. accelerate runs as shipped and with pinned weights, each at its best batch. The cap binds
through the allocator's fraction and through a ballast that holds the rest of the GPU. Rates are of
decode steps in the middle of a run (at most 8 a setting, the median of all but two), on keys that
are made up; prefill is real, and told apart. Predictions are of `cost_model.hrm`, for `--hardware`.
Pages and keys of all settings lie in one pinned store, each page in memory of its own. Figures are
written after each section.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # OpenMP reads it as torch is loaded: a ms
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")  # as executors with CPU experts do

from .moe_record import RESULTS, Figures, Keep, keeper
from .offload.ballast import Ballast
from .offload.bench import Bench, say
from .offload.comparisons import (
    SCHEDULES,
    accelerate,
    bound,
    cpu_experts,
    error_settings,
    errors,
    few_settings,
    schedules,
)
from .offload.disk import disk
from .offload.memory import host_memory, memory_settings
from .offload.planning import planning
from .offload.runs import KEY_BYTES, Setting, lean, release, with_schedule
from .offload.variants import variant_settings, variants

GIB, MIB = 1 << 30, 1 << 20
KEYS = (
    "vs_accelerate", "vs_accelerate_pinned", "vs_s2", "vs_s3", "vs_s4", "fraction_of_bound",
    "hrm_error_median", "hrm_error_max", "cpu_experts_gain_n320",
)  # fmt: skip
"""What the last line of JSON always has; null where it was not measured, and `why` says why."""

SETTINGS = ("model", "workload", "batch", "micro_batches", "skew", "pages_per_expert", "routing",
            "kv", "hardware")  # fmt: skip
"""Options that make another workload of it, or other predictions, with other figures."""

STEPS, SECONDS = 8, 3.0
"""The most decode steps of a setting, and the seconds after which no more are made."""


def settings_of(bench: Bench) -> list[Setting]:
    """Return all settings that the sections of a bench on a GPU may measure."""
    base = bench.base
    less = [setting for part in memory_settings(bench) for setting in part]
    few = [setting for part in few_settings(bench) for setting in part]
    schedules = [with_schedule(base, name) for name in SCHEDULES]
    more = (*few, *less, *variant_settings(bench).values())
    return [*error_settings(base, bench.tiny), *schedules, *map(lean, more)]


SECTIONS: dict[str, Callable[[Bench], Figures]] = {
    "accelerate": accelerate, "schedules": schedules, "bound": bound, "cpu_experts": cpu_experts,
    "host_memory": host_memory, "variants": variants, "disk": disk, "errors": errors,
    "planning": planning,
}  # fmt: skip


def tiny_bench(hardware: str, cache: Path | None = None) -> Bench:
    """Return the bench of tiny-moe on a simulated GPU: what runs, not how fast."""
    base = Setting("tiny-moe", 4, 6, 10, 4, 24 * MIB, weights="f32", schedule="ring",
                   micro_batches=2, max_tokens=32, threads=1, cache=cache)  # fmt: skip
    return Bench(base, hardware, tiny=True, n320=6)


def full_bench(options: argparse.Namespace) -> Bench:
    """Return the bench of a capped GPU: anchor's set-up, one of its two workloads."""
    prompt, longest, new = (512, 512, 64) if options.workload == "512+64" else (77, 418, 128)
    base = Setting(
        options.model, options.batch, prompt, longest, new, 16 * 10**9, "cuda", schedule="ring",
        micro_batches=options.micro_batches, max_tokens=16384, skew=options.skew,
        threads=options.threads, steps=STEPS, seconds=SECONDS, middle=True,
        kv=options.kv, routing=options.routing, pages_per_expert=options.pages_per_expert,
    )  # fmt: skip
    wanted = tuple(options.variants or ())
    return Bench(base, options.hardware, tiny=False, budget=options.budget, wanted=wanted)


def measure(bench: Bench, names: list[str], keep: Keep = lambda figures, name: None) -> Figures:
    """Run sections; the figures have every key, null where something stood in the way.

    `keep` is given the figures so far after each section, and its name.
    """
    figures: Figures = {}
    for name in names:
        try:
            figures |= SECTIONS[name](bench)
        except Exception as error:
            if bench.tiny:
                raise
            bench.why[name] = repr(error)
            say(f"{name} failed:")
            traceback.print_exc()
        release()
        keep(whole(bench, figures), name)
    return whole(bench, figures)


def whole(bench: Bench, figures: Figures) -> Figures:
    """Return figures with every key that there must be."""
    missing = {key: None for key in KEYS if key not in figures}
    runs = [{"setting": found.setting.name, "model": found.setting.model,
             "tokens_per_s": found.decode_rate, "step_ms": 1e3 * found.step,
             "prefill_s": found.prefill}
            for found in bench.done.values()]  # fmt: skip
    return {**missing, **figures, "measured": runs, "why": bench.why, "tiny": bench.tiny}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="of that section, only these")
    parser.add_argument("--tiny", action="store_true", help="tiny-moe on a simulated GPU")
    parser.add_argument("--model", default="random:mixtral-8x7b-16l", help="a shape, or a folder")
    parser.add_argument("--workload", default="77+128", choices=("77+128", "512+64"))
    parser.add_argument("--batch", type=int, default=1500, help="sequences that decode together")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU's kernels; 0: all but 2")
    parser.add_argument("--skew", type=float, default=0.0, help="bends the routers: 1 doubles")
    parser.add_argument("--pages-per-expert", type=int, default=1, help="slices of an expert")
    parser.add_argument("--routing", default="", help="a trace that is replayed, or zipf:EXPONENT")
    parser.add_argument("--hardware", default="h200", help="a shipped name, or a calibrated file")
    parser.add_argument("--budget", type=float, default=330.0, help="seconds for all settings")
    parser.add_argument("--kv", default="bf16", choices=list(KEY_BYTES), help="keys and values")
    parser.add_argument("--kernels", type=Path, help="a folder of bench.moe_kernels")
    parser.add_argument("--smoke", action="store_true", help="every path once; what fails")
    parser.add_argument("--commit", default="", help="what is measured, where git is not at hand")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--out", type=Path, help="write the figures here after each section")
    return parser


def refuse_other_settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End where `--record` would keep other figures under the names of the usual ones."""
    if not options.record or options.tiny or options.smoke or options.out:
        return
    other = [name for name in SETTINGS if getattr(options, name) != parser.get_default(name)]
    if other:
        names = ", ".join("--" + name.replace("_", "-") for name in other)
        parser.error(f"{RESULTS.name} is of the usual setting: leave out {names}, or --record for "
                     "--out FILE")  # fmt: skip


def main() -> None:
    """Run the sections that are asked for."""
    parsing = parser()
    options = parsing.parse_args()
    refuse_other_settings(parsing, options)
    options.threads = options.threads or max(len(os.sched_getaffinity(0)) - 2, 1)
    if options.kernels:
        from .offload.kernels import use

        say(f"kernels for {use(options.kernels)}")
    if options.smoke:
        from .offload.smoke import smoke

        sys.exit(smoke(options))
    bench = tiny_bench(options.hardware) if options.tiny else full_bench(options)
    path = options.out or (RESULTS if options.record and not options.tiny else None)

    keep = keeper(path, options.commit)
    with Ballast(bench.base.gpu_memory) as ballast:
        say(f"GPU memory left by the ballast: {ballast.left / GIB:.2f} GiB")
        figures = measure(bench, options.only or list(SECTIONS), keep)
    for name, value in figures.items():
        if isinstance(value, int | float | str):
            say(f"{name}: {value}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
