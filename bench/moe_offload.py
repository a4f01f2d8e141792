"""A mixture-of-experts model larger than its GPU: weft against accelerate and other schedules.

    python -m bench.moe_offload --json --record        one GPU capped at 16 GB, Mixtral of 16 layers
    python -m bench.moe_offload --only schedules       one section
    python -m bench.moe_offload --tiny --json          tiny-moe on a simulated GPU: the code alone

All schedules run on weft's own kernels on equal terms: the same batch, micro-batches, cap and host
memory. accelerate runs as shipped and with pinned weights, each at its best batch. The cap binds
through the allocator's fraction and through a ballast that holds the rest of the GPU. Rates are of
decode steps; prefill is told apart. Predictions are of `cost_model.hrm`, for `--hardware`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .ballast import Ballast
from .moe_peers import NoPeer, rate
from .moe_runs import Measured, Setting, prompts_of, run, with_schedule

GIB, MIB = 1 << 30, 1 << 20
RESULTS = Path(__file__).parent / "results" / "moe_offload.json"
KEYS = (
    "vs_accelerate", "vs_accelerate_pinned", "vs_s2", "vs_s3", "vs_s4", "fraction_of_bound",
    "hrm_error_median", "hrm_error_max", "cpu_experts_gain_n320",
)  # fmt: skip
"""What the last line of JSON always has; null where it was not measured, and `why` says why."""

Figures = dict[str, Any]


@dataclass
class Bench:
    """The base setting, what has been measured of it, and why something was not."""

    base: Setting
    hardware: str
    tiny: bool
    n320: int = 320
    why: dict[str, str] = field(default_factory=dict)
    done: dict[Setting, Measured] = field(default_factory=dict)

    def measured(self, setting: Setting) -> Measured:
        """Return a setting's run, once."""
        if setting not in self.done:
            self.done[setting] = run(setting)
            found = self.done[setting]
            times = f"{found.decode_rate:.1f} tokens/s, step {1e3 * found.step:.1f} ms"
            say(f"{setting.name}: {times}, GPU {found.gpu_peak / MIB:.0f} MiB")
        return self.done[setting]

    @property
    def ours(self) -> Measured:
        """The run that is compared with the others: the ring."""
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
        shape = MoeShape.of(open_checkpoint(setting.model).config, found.policy.page_format)
        workload = Workload(setting.prompt, setting.new)
        total = found.prefill + setting.new * found.step
        return Compared(setting.name, shape, found.policy, workload, found.step, total)

    def predicted(self, found: Measured) -> Any:
        """Return what the hierarchical roofline says of a run's policy."""
        from weft.cost_model.hrm.prediction import predict

        known = self.compared(found)
        return predict(known.policy, known.shape, known.workload, self.prices)


def schedules(bench: Bench) -> Figures:
    """The ring against CGOPipe, S2, S3 and S4, all on our kernels."""
    figures: Figures = {"tokens_per_s": bench.ours.decode_rate, "prefill_s": bench.ours.prefill}
    for name in ("cgo", "s2", "s3", "s4"):
        other = bench.measured(with_schedule(bench.base, name))
        figures[f"vs_{name}"] = bench.ours.decode_rate / other.decode_rate
    return figures


def accelerate(bench: Bench) -> Figures:
    """The ring against accelerate, as shipped and with pinned weights."""
    from weft.frontend.checkpoint import open_checkpoint

    checkpoint, base, figures = open_checkpoint(bench.base.model), bench.base, {}
    prompts = prompts_of(base, checkpoint.config.vocab_size)
    batches = [n for n in (base.batch // 8, base.batch // 2, base.batch) if n]
    for key, pinned in (("vs_accelerate", False), ("vs_accelerate_pinned", True)):
        try:
            peer = rate(checkpoint.folder, checkpoint.config, base.gpu_memory, pinned, prompts,
                        min(base.new, 8), batches)  # fmt: skip
        except NoPeer as error:
            bench.why[key] = str(error)
            continue
        say(f"accelerate{', pinned' if pinned else ''}: {peer:.2f} tokens/s")
        figures[key] = bench.ours.decode_rate / peer
    return figures


def bound(bench: Bench) -> Figures:
    """The ring's step as a share of the least time that the calibrated model allows."""
    prediction = bench.predicted(bench.ours)
    least = prediction.roofs[prediction.bound]
    say(f"bound by {prediction.bound}: {1e3 * least:.2f} ms a step")
    return {"fraction_of_bound": least / bench.ours.step, "bound": prediction.bound}


def cpu_experts(bench: Bench) -> Figures:
    """Experts on the CPU against none, at the batch where the model says that they pay."""
    base = replace(bench.base, batch=bench.n320, policy=None)
    streamed = bench.measured(replace(base, cpu_experts=0))
    counts = (1,) if bench.tiny else (1, 2, 3)
    divided = [bench.measured(replace(base, cpu_experts=count)) for count in counts]
    best = max(divided, key=lambda found: found.decode_rate)
    return {
        "cpu_experts_gain_n320": best.decode_rate / streamed.decode_rate,
        "cpu_experts_best": best.setting.cpu_experts,
    }


def errors(bench: Bench) -> Figures:
    """Predicted against measured, a step and end to end, over at least 20 settings; and the
    published form beside it."""
    from weft.cost_model.prediction_error import prediction_errors

    runs = [bench.measured(setting) for setting in error_settings(bench.base, bench.tiny)]
    found = prediction_errors([bench.compared(run) for run in runs], bench.prices)
    say(found.text())
    rows = [{"setting": e.name, "what": e.what, "measured_s": e.measured, "error": e.relative,
             "predicted_s": e.predicted, "paper_s": e.paper} for e in found.each]  # fmt: skip
    return {**found.summary(), "hrm_settings": rows}


def host_memory(bench: Bench) -> Figures:
    """The rate by host memory, from all pages in memory to most of them on disk."""
    pages = bench.ours.host_bytes
    rows = []
    for share in (1.0, 0.75, 0.5):
        found = bench.measured(replace(bench.base, host_memory=int(share * pages)))
        on_disk = sum(len(layer.disk) for layer in found.policy.layers)
        rows.append({"host_bytes": int(share * pages), "tokens_per_s": found.decode_rate,
                     "pages_on_disk": on_disk})  # fmt: skip
    return {"rate_by_host_memory": rows}


def error_settings(base: Setting, tiny: bool) -> list[Setting]:
    """Return the settings that predictions are compared on."""
    batches = (base.batch,) if tiny else (base.batch // 4, base.batch)
    every = [
        replace(base, schedule=schedule, batch=batch, micro_batches=count, cpu_experts=cpu)
        for schedule in ("ring", "cgo", "s3")
        for batch in batches
        for count, cpu in (
            (2, 0),
            (base.micro_batches, 0),
            (base.micro_batches, 1),
            (base.micro_batches, 2),
        )  # fmt: skip
    ]
    return list(dict.fromkeys(every))


SECTIONS: dict[str, Callable[[Bench], Figures]] = {
    "schedules": schedules, "accelerate": accelerate, "bound": bound, "cpu_experts": cpu_experts,
    "errors": errors, "host_memory": host_memory,
}  # fmt: skip


def tiny_bench(hardware: str, cache: Path | None = None) -> Bench:
    """Return the bench of tiny-moe on a simulated GPU: what runs, not how fast."""
    base = Setting("tiny-moe", 4, 6, 10, 4, 24 * MIB, weights="f32", micro_batches=2,
                   max_tokens=32, threads=1, cache=cache)  # fmt: skip
    return Bench(base, hardware, tiny=True, n320=6)


def full_bench(options: argparse.Namespace) -> Bench:
    """Return the bench of a capped GPU: anchor's set-up, one of its two workloads."""
    prompt, longest, new = (512, 512, 64) if options.workload == "512+64" else (77, 418, 128)
    base = Setting(
        options.model, options.batch, prompt, longest, new, 16 * 10**9, "cuda",
        micro_batches=options.micro_batches, max_tokens=16384, skew=options.skew,
    )  # fmt: skip
    return Bench(base, options.hardware, tiny=False)


def measure(bench: Bench, names: list[str]) -> Figures:
    """Run sections; the figures have every key, null where something stood in the way."""
    figures: Figures = {}
    for name in names:
        try:
            figures |= SECTIONS[name](bench)
        except Exception as error:
            if bench.tiny:
                raise
            bench.why[name] = repr(error)
            say(f"{name} failed: {error!r}")
    missing = {key: None for key in KEYS if key not in figures}
    return {**missing, **figures, "why": bench.why, "tiny": bench.tiny}


def say(text: str) -> None:
    """Print a line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def record(figures: Figures, commit: str, path: Path = RESULTS) -> None:
    """Write figures with machine, versions, commit and date."""
    from .gpu_programs import provenance

    path.write_text(json.dumps({"figures": figures, **provenance(commit)}, indent=1) + "\n")


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--tiny", action="store_true", help="tiny-moe on a simulated GPU")
    parser.add_argument("--model", default="random:mixtral-8x7b-16l", help="a shape, or a folder")
    parser.add_argument("--workload", default="77+128", choices=("77+128", "512+64"))
    parser.add_argument("--batch", type=int, default=1500, help="sequences that decode together")
    parser.add_argument("--micro-batches", type=int, default=16)
    parser.add_argument("--skew", type=float, default=0.0, help="bends the routers: 1 doubles")
    parser.add_argument("--hardware", default="h200", help="a shipped name, or a calibrated file")
    parser.add_argument("--commit", default="", help="what is measured, where git is not at hand")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    bench = tiny_bench(options.hardware) if options.tiny else full_bench(options)
    with Ballast(bench.base.gpu_memory):
        figures = measure(bench, options.only or list(SECTIONS))
    if options.record and not options.tiny:
        record(figures, options.commit)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
