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
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # OpenMP reads it as torch is loaded: a ms
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")  # as executors with CPU experts do

from .moe_peers import NoPeer, in_process, rates
from .moe_record import RESULTS, Figures, Keep, keeper
from .offload.ballast import Ballast
from .offload.disk import disk
from .offload.memory import host_memory, memory_settings
from .offload.planning import planning
from .offload.runs import (
    FEW_TOKENS,
    KEY_BYTES,
    Measured,
    Setting,
    lean,
    prompts_of,
    release,
    run,
    with_schedule,
)
from .offload.variants import variant_settings, variants

GIB, MIB = 1 << 30, 1 << 20
KEYS = (
    "vs_accelerate", "vs_accelerate_pinned", "vs_s2", "vs_s3", "vs_s4", "fraction_of_bound",
    "hrm_error_median", "hrm_error_max", "cpu_experts_gain_n320",
)  # fmt: skip
"""What the last line of JSON always has; null where it was not measured, and `why` says why."""

PEER_BATCHES = (1024,)
"""Sequences that accelerate decodes at a time: with half of them its rate is half."""
SCHEDULES = ("cgo", "s2", "s3", "s4")
"""What ours, the ring, is compared with."""
STEPS, SECONDS = 8, 3.0
"""The most decode steps of a setting, and the seconds after which no more are made."""
ENOUGH = 20
"""Settings that predictions are compared on at least; more only while there is time."""
BEGUN = time.perf_counter()


@dataclass
class Bench:
    """The base setting, what has been measured of it, and why something was not."""

    base: Setting
    hardware: str
    tiny: bool
    n320: int = 320
    budget: float = float("inf")
    wanted: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    done: dict[Setting, Measured] = field(default_factory=dict)
    _store: tuple[Setting, Any] | None = None

    def measured(self, setting: Setting) -> Measured:
        """Return a setting's run, once."""
        if setting not in self.done:
            release()  # the run before may have left its pages in cycles
            begun = time.perf_counter()
            found = self.done[setting] = run(setting, self.store_of(setting))
            spent = time.perf_counter() - begun
            busy = ", ".join(f"{queue} {1e3 * s:.0f}" for queue, s in found.busy.items())
            say(f"{setting.name}: {found.decode_rate:.1f} tokens/s, step {1e3 * found.step:.1f} ms "
                f"of {len(found.steps)}, prefill {found.prefill:.2f} s, GPU "
                f"{found.gpu_peak / MIB:.0f} MiB; ms by queue: {busy}; {spent:.1f} s in all"
                f"{''.join(f'; {note}' for note in found.notes)}")  # fmt: skip
        return self.done[setting]

    def store_of(self, setting: Setting) -> Any:
        """Return the host memory of all settings with such pages; None where each takes its own.

        One store is there at a time: that of other pages is given back first.
        """
        if self.tiny:
            return None
        from .offload.store import shared_store, store_owner

        owner = store_owner(self.base, setting)
        if self._store is not None and self._store[0] != owner:
            self._store[1].owner.close()
            self._store = None
            release()
        if self._store is None:
            begun = time.perf_counter()
            self._store = (owner, shared_store(owner))
            spent, notes = time.perf_counter() - begun, self._store[1].notes
            say(f"pages and keys are there after {spent:.1f} s {notes}")
        return self._store[1]

    @property
    def late(self) -> bool:
        """Whether the time for more settings is over."""
        return time.perf_counter() - BEGUN > self.budget

    @property
    def ours(self) -> Measured:
        """The run that is compared with the others: what is chosen where nothing is asked."""
        return self.measured(self.base)

    @cached_property
    def prices(self) -> Any:
        """The hardware's figures, of a file or a shipped name."""
        from weft.cost_model import hardware_file

        return hardware_file.load(self.hardware)

    def compared(self, found: Measured) -> Any:
        """Return a run as predictions are compared with it."""
        from weft.cost_model.hrm.shape import MoeShape, Workload
        from weft.cost_model.prediction_error import Setting as Compared
        from weft.frontend.checkpoint import open_checkpoint

        setting = found.setting
        config = open_checkpoint(setting.model).config
        shape = MoeShape.of(config, found.policy.page_format, KEY_BYTES[setting.kv])
        lengths = [len(prompt) for prompt in prompts_of(setting, config.vocab_size)]
        mean = sum(lengths) / len(lengths)
        spread = sum(n * n for n in lengths) / len(lengths) / mean**2
        workload = Workload(mean, setting.new, spread=spread)
        total = found.prefill + (setting.new - 1) * found.step if found.prefill else 0.0
        policy = found.policy
        if not policy.overlap:
            policy = replace(policy, prefill_tokens=setting.max_tokens)
        return Compared(setting.name, shape, policy, workload, found.step, total)

    def predicted(self, found: Measured) -> Any:
        """Return what the hierarchical roofline says of a run's policy."""
        from weft.cost_model.hrm.prediction import predict

        known = self.compared(found)
        return predict(known.policy, known.shape, known.workload, self.prices)


def schedules(bench: Bench) -> Figures:
    """The ring (ours) against CGOPipe, S2, S3 and S4, all on our kernels."""
    figures: Figures = {"tokens_per_s": bench.ours.decode_rate, "prefill_s": bench.ours.prefill}
    for name in SCHEDULES:
        other = bench.measured(with_schedule(bench.base, name))
        figures[f"vs_{name}"] = bench.ours.decode_rate / other.decode_rate
    return figures


def accelerate(bench: Bench) -> Figures:
    """Ours against accelerate, as shipped and with pinned weights, each at its best batch."""
    base, found = bench.base, []
    context = base.prompt + base.new // 2
    try:
        if bench.tiny:
            from weft.frontend.checkpoint import open_checkpoint

            known = open_checkpoint(base.model)
            found = [*rates(known.folder, known.config, base.gpu_memory, context, (base.batch,))]
        else:
            found = [*in_process(base.model, base.gpu_memory, context, PEER_BATCHES, 90)]
    except NoPeer as error:
        bench.why["vs_accelerate"] = bench.why["vs_accelerate_pinned"] = str(error)
    figures: Figures = {"accelerate": found}
    for line in found:
        say(f"accelerate: {line}")
    for key, pinned in (("vs_accelerate", False), ("vs_accelerate_pinned", True)):
        best = max((line["rate"] for line in found if line["pinned"] == pinned), default=0.0)
        if best:
            figures[key] = bench.ours.decode_rate / best
        else:
            bench.why.setdefault(key, "no batch ran")
    return figures


def bound(bench: Bench) -> Figures:
    """Our step as a share of the least time that the calibrated model allows."""
    prediction = bench.predicted(bench.ours)
    least = prediction.roofs[prediction.bound]
    say(f"bound by {prediction.bound}: {1e3 * least:.2f} ms a step")
    return {"fraction_of_bound": least / bench.ours.step, "bound": prediction.bound}


def cpu_experts(bench: Bench) -> Figures:
    """Experts on the CPU against none, each at its best, at the batch where the model says that
    they pay. Each micro-batch reads a page of the CPU's again, so fewer are tried too."""
    streamed, divided = few_settings(bench)
    best = max(map(bench.measured, divided), key=lambda found: found.decode_rate)
    plain = max(map(bench.measured, streamed), key=lambda found: found.decode_rate)
    return {
        "cpu_experts_gain_n320": best.decode_rate / plain.decode_rate,
        "cpu_experts_best": best.setting.cpu_experts,
        "cpu_experts_micro_batches": best.setting.micro_batches,
    }


def few_settings(bench: Bench) -> tuple[list[Setting], list[Setting]]:
    """Return settings of few sequences: none of the experts on the CPU, and some.

    One micro-batch reads a page of the CPU's once; with two, attention runs beside the experts.
    One and a half: one and two in turn.
    """
    base = lean(replace(bench.base, batch=bench.n320, policy=None))
    if bench.tiny:
        return [base], [replace(base, cpu_experts=1, micro_batches=1)]
    base = replace(base, max_tokens=FEW_TOKENS)
    streamed = [("ring", 4), ("cgo", 4), ("cgo", 2)]
    divided = [(1.5, 1), (2, 1), (1, 1), (1, 2)]
    return [replace(base, schedule=name, micro_batches=count) for name, count in streamed], [
        replace(base, cpu_experts=experts, micro_batches=count) for experts, count in divided
    ]


def errors(bench: Bench) -> Figures:
    """Predicted against measured, a step and end to end, over at least 20 settings; and the
    published form beside it."""
    from weft.cost_model.prediction_error import prediction_errors

    for setting in error_settings(bench.base, bench.tiny):
        if not bench.late:
            bench.measured(setting)
    runs = list(bench.done.values())  # those of other sections too
    if len(runs) < ENOUGH:
        bench.why["errors"] = f"{len(runs)} settings were measured in the time that there was"
    found = prediction_errors([bench.compared(run) for run in runs], bench.prices)
    say(found.text())
    rows = [{"setting": e.name, "what": e.what, "measured_s": e.measured, "error": e.relative,
             "predicted_s": e.predicted, "paper_s": e.paper} for e in found.each]  # fmt: skip
    return {**found.summary(), "hrm_measured": len(runs), "hrm_settings": rows}


def error_settings(base: Setting, tiny: bool) -> list[Setting]:
    """Return the settings that predictions are compared on: all schedules, few and many sequences
    and micro-batches, some of the experts on the CPU, two with their prefill."""
    few, count = base.batch if tiny else base.batch // 4, base.micro_batches
    many = (few, base.batch)
    whole = [replace(base, batch=batch) for batch in many]
    every = [with_schedule(each, name) for each in whole for name in SCHEDULES]
    divided = [(name, 2 * count, 0) for name in ("cgo", "ring", "s3")]
    divided += [("ring", number, 1) for number in (count, max(count // 2, 1))]
    every += [
        lean(replace(base, schedule=name, batch=batch, micro_batches=number, cpu_experts=cpu))
        for name, number, cpu in divided for batch in many
    ]  # fmt: skip
    return list(dict.fromkeys((*whole, *every)))


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
    runs = [{"setting": found.setting.name, "tokens_per_s": found.decode_rate,
             "step_ms": 1e3 * found.step, "prefill_s": found.prefill}
            for found in bench.done.values()]  # fmt: skip
    return {**missing, **figures, "measured": runs, "why": bench.why, "tiny": bench.tiny}


def say(text: str) -> None:
    """Print a line for whoever watches, after the seconds since the beginning."""
    print(f"[{time.perf_counter() - BEGUN:6.1f}] {text}", file=sys.stderr, flush=True)


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


def main() -> None:
    """Run the sections that are asked for."""
    options = parser().parse_args()
    options.threads = options.threads or max(len(os.sched_getaffinity(0)) - 2, 1)
    if options.kernels:
        from .moe_kernels import use

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
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
