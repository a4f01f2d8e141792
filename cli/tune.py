"""`weft tune`: the best policy of an offloaded mixture-of-experts model, and why it is the best."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.display.units import bytes_text
from ..ir.types import DTYPE_BYTES
from ..options import BadOption
from . import tune_plot
from .live import waiting
from .output import check_file, write_file
from .render import emit, parse_size, remarks

if TYPE_CHECKING:
    from ..cost_model.hardware import Hardware
    from ..cost_model.hrm.grid import Grid
    from ..cost_model.hrm.host_curve import HostCurve
    from ..cost_model.hrm.model import Site
    from ..cost_model.hrm.prediction import Lift, Prediction
    from ..cost_model.hrm.search import Found
    from ..cost_model.hrm.shape import MoeShape, Workload
    from ..cost_model.roofline import Interval
    from ..ir.model import ModelConfig


KEY_FORMATS = ("", "f32", "bf16")
"""Formats in which the runtime keeps keys and values beside the CPU; empty: as it does unasked."""


@dataclass(frozen=True)
class TuneOptions:
    """The options of `weft tune`, as given."""

    model: str
    gpu_memory: str
    host_memory: str
    disk: str
    hardware: str
    prompt: int
    new: int
    batch: int
    pages: str
    kv: str
    pages_per_expert: int
    popularity: Path | None
    split_kv: bool
    overlap: bool
    out: Path | None
    plot: Path | None
    measured: Path | None
    json: bool


@dataclass(frozen=True)
class _Tuned:
    """All that was found: what is printed."""

    found: Found
    prediction: Prediction
    lifts: list[Lift]
    seconds: float
    packed: float
    """The throughput that pages of bf12 have over those of bf16; 1 where these are not chosen."""


@dataclass(frozen=True)
class _Question:
    """What a policy is searched for: a model's work, a machine, and the batches to try."""

    shape: MoeShape
    workload: Workload
    site: Site
    grid: Grid
    hardware: Hardware


def tune(options: TuneOptions) -> None:
    """Search, predict, print; write the policy where `--out` says."""
    _check(options)
    question = _question(options)
    said = "still searching: each batch that may be the best is solved exactly"
    with remarks().status("searching"), waiting(said):
        tuned = _search(question)
    curve = None if options.plot is None else _host_curve(question)
    if options.json:
        emit(json.dumps(as_json(options.model, tuned) | _curve_json(curve)))
    else:
        emit(report(options.model, question, tuned))
        if curve is not None:
            emit(f"\n{curve.text()}")
    _keep(options, question, tuned, curve)


def _check(options: TuneOptions) -> None:
    """Raise for what needs no search to be found wrong: BadOption, NotWritten, and of a plot."""
    from ..ir.offload.page_formats import PAGE_FORMATS

    if options.pages not in PAGE_FORMATS:
        known = ", ".join(PAGE_FORMATS)
        raise BadOption(problem=f"no format of pages is {options.pages!r}", hint=f"known: {known}")
    if options.pages_per_expert < 0 or options.batch < 0:
        raise BadOption(problem="--pages-per-expert and --batch are not negative")
    if options.new == 1 and not options.overlap:
        raise BadOption(
            problem="with --new 1 the prompts give the only token: no step would be tuned for",
            hint="give --new at least 2, or --overlap, whose steps decode beside prompts",
        )
    if options.kv not in KEY_FORMATS:
        known = ", ".join(filter(None, KEY_FORMATS))
        raise BadOption(
            problem=f"keys and values are not kept as {options.kv!r}", hint=f"known: {known}"
        )
    tune_plot.check(options.plot, options.measured)
    check_file(options.out, "--out")


def _question(options: TuneOptions) -> _Question:
    from ..cost_model import hardware_file
    from ..cost_model.hrm.grid import Grid
    from ..cost_model.hrm.popularity import read as read_popularity
    from ..cost_model.hrm.shape import MoeShape, Workload

    element = DTYPE_BYTES[options.kv] if options.kv else 0
    config = config_of(options.model)
    shape = MoeShape.of(config, options.pages, element)
    workload = Workload(options.prompt, options.new, options.overlap)
    if workload.full_context > config.context_length:
        problem = f"prompts of {options.prompt} and {options.new} generated tokens are too long"
        hint = f"{options.model} has a context of {config.context_length}: lower --prompt or --new"
        raise BadOption(problem=problem, hint=hint)
    hardware = (
        hardware_file.load(options.hardware)
        if options.hardware
        else hardware_file.measured_or_shipped()
    )
    known = read_popularity(options.popularity, shape) if options.popularity else None
    site = replace(_site(options, hardware), popularity=known)
    grid = Grid(
        most=options.batch or Grid().most,
        pages_per_expert=options.pages_per_expert,
        kv_gpu=Grid().kv_gpu if options.split_kv else (0.0,),
    )
    return _Question(shape, workload, site, grid, hardware)


def _host_curve(asked: _Question) -> HostCurve:
    """Return what a policy reaches with less host memory, and with all that the best one needs."""
    from ..cost_model.hrm.host_curve import host_curve

    said = "still searching: once for each of several sizes of host memory"
    with remarks().status("searching for each host memory"), waiting(said):
        return host_curve(asked.shape, asked.workload, asked.site, asked.grid, asked.hardware)


def _keep(
    options: TuneOptions, asked: _Question, tuned: _Tuned, curve: HostCurve | None
) -> None:  # fmt: skip
    """Write the policy and the plot, where they are asked for."""
    from ..cost_model import policy_text

    if options.out is not None:
        write_file(options.out, "--out", policy_text.dumps(tuned.prediction.policy))
        remarks().print(f"policy saved in {options.out}", markup=False)
    if options.plot is not None and curve is not None:
        work, site = asked.workload, asked.site
        title = (f"{options.model}, {bytes_text(site.gpu_memory)} of GPU memory, "
                 f"{asked.hardware.name}; {work.prompt:g} + {work.new} tokens")  # fmt: skip
        tune_plot.draw(curve, title, options.plot, options.measured)


def config_of(model: str) -> ModelConfig:
    """Return the configuration of a shipped model, a folder, or `random:SHAPE`."""
    from ..frontend.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(model).config


def _site(options: TuneOptions, hardware: Hardware) -> Site:
    from ..cost_model.hrm.machine import HostedGpu
    from ..cost_model.hrm.model import Site
    from ..ir.offload.page_formats import WIDE

    if not any(level.kind == "gpu" for level in hardware.levels):
        raise BadOption(
            problem=f"hardware {hardware.name!r} describes no GPU",
            hint="take a shipped one (--hardware h200), or what `weft calibrate` measures beside a "
            "GPU",
        )
    machine = HostedGpu.of(hardware)
    disk = float(parse_size(options.disk)) if options.disk else 0.0
    if disk and not machine.disk:
        raise BadOption(
            problem=f"hardware {hardware.name!r} describes no disk",
            hint="measure it with `weft calibrate`, or add a level and a link `disk` to its file",
        )
    gpu = float(parse_size(options.gpu_memory)) if options.gpu_memory else machine.gpu_memory
    host = float(parse_size(options.host_memory)) if options.host_memory else machine.host_memory
    site = Site(machine, min(gpu, machine.gpu_memory), host, disk)
    return _off_the_cpu(site) if options.pages in WIDE else site


def _off_the_cpu(site: Site) -> Site:
    """Return a site for packed pages: the CPU's kernels read what is not."""
    return replace(site, homes=tuple(home for home in site.homes if home != "cpu"))


def _search(asked: _Question) -> _Tuned:
    from ..cost_model.hrm.prediction import lifts, predict
    from ..cost_model.hrm.search import policy_of, refined

    shape, workload, site = asked.shape, asked.workload, asked.site
    started = time.perf_counter()
    found = refined(shape, workload, site, asked.grid)
    seconds = time.perf_counter() - started
    policy = policy_of(found, shape)
    prediction = predict(policy, shape, workload, asked.hardware, known=site.popularity)
    packed = 1.0
    if shape.page_format == "bf16":
        rate = _packed_rate(replace(asked, shape=replace(shape, page_format="bf12")))
        packed = max(rate / prediction.throughput.expected, 1.0)
    return _Tuned(found, prediction, lifts(found, shape, workload, asked.grid), seconds, packed)


def _packed_rate(asked: _Question) -> float:
    """Return the best tokens/s with packed pages; 0 where they do not fit."""
    from ..cost_model.hrm.prediction import predict
    from ..cost_model.hrm.search import policy_of, refined
    from ..ir.diagnostics import CapacityError

    shape, workload, known = asked.shape, asked.workload, asked.site.popularity
    try:
        found = refined(shape, workload, _off_the_cpu(asked.site), asked.grid)
    except CapacityError:
        return 0.0
    policy = policy_of(found, shape)
    return predict(policy, shape, workload, asked.hardware, known=known).throughput.expected


def report(model: str, asked: _Question, tuned: _Tuned) -> str:
    """Return the text for people."""
    shape, workload, site = asked.shape, asked.workload, asked.site
    prediction = tuned.prediction
    experts = shape.layers * shape.layer_bytes
    lines = [
        f"{model}: {shape.layers} layers of {shape.experts} experts, {shape.top_k} a token; "
        f"{bytes_text(experts)} of experts in {shape.page_format}, "
        f"{bytes_text(shape.dense_bytes)} besides; keys and values in {_key_format(shape)}",
        f"on {asked.hardware.name}: GPU memory {bytes_text(site.gpu_memory)}, host memory "
        f"{bytes_text(site.host_memory)}; prompts of {workload.prompt:g}, {workload.new} generated",
        "",
        *_policy_lines(tuned),
        "",
        *_time_lines(workload, prediction),
        "",
        *_memory_lines("GPU memory", prediction.gpu, site.gpu_memory),
        *_memory_lines("host memory", prediction.host, site.host_memory),
        "",
        "what a quarter more would bring",
        *(f"  {lift.what:<22} {lift.gain - 1:+7.1%}" for lift in tuned.lifts if lift.gain > 1.0005),
        "",
        *_packed_lines(tuned.packed),
        f"searched {tuned.found.tried} batches in {tuned.seconds:.1f} s, "
        f"{tuned.found.solved} of them with the solver",
    ]
    return "\n".join(lines)


def _packed_lines(gain: float) -> list[str]:
    if gain < 1.01:
        return []
    return [f"pages in twelve bits, exactly (--pages bf12), would bring {gain - 1:+.1%}", ""]


def _key_format(shape: MoeShape) -> str:
    return "f32" if (shape.kv_element or shape.element) == DTYPE_BYTES["f32"] else "bf16"


def _policy_lines(tuned: _Tuned) -> list[str]:
    policy, counts = tuned.prediction.policy, tuned.found.counts
    total = {
        home: sum(n for (name, _), n in counts.items() if name == home)
        for home in ("resident", "streamed", "cpu", "disk")
    }
    words = {"resident": "resident", "streamed": "streamed", "cpu": "on the CPU",
             "disk": "from disk"}  # fmt: skip
    placed = ", ".join(f"{total[home]} {word}" for home, word in words.items() if total[home])
    pages = "an expert each" if policy.pages_per_expert == 1 else (
        f"{policy.pages_per_expert} an expert"
    )  # fmt: skip
    return [
        f"policy     {policy.batch} sequences in {policy.micro_batches} micro-batches of "
        f"{policy.micro_batch}; attention on the {policy.attention.upper()}"
        f"{f', {policy.kv_gpu:.0%} of the keys there' * (policy.kv_gpu > 0)}; "
        f"schedule {policy.schedule}, lead {policy.lead}",
        f"pages      {pages}: {placed}; a ring of {policy.ring} slots",
        f"prefill    {policy.prefill_tokens} tokens "
        + (
            "of prompts in each step, beside decode"
            if policy.overlap
            else "a pass over the weights"
        ),
    ]


def _time_lines(workload: Workload, prediction: Prediction) -> list[str]:
    step, rate, prefill = prediction.step, prediction.throughput, prediction.prefill
    share = prediction.bound_share
    lines = [
        f"predicted  {rate.expected:,.1f} tokens/s{_range(rate, 1)}: "
        + ("" if workload.overlap else f"prefill {prefill.expected:.2f} s, then {workload.steps} ")
        + f"steps of {step.expected:.3f} s{_range(step, 3)}",
        f"bound      {prediction.bound}: {share:.0%} of a step",
    ]
    rows = sorted(prediction.roofs.items(), key=lambda row: -row[1])
    return lines + [f"           {name:<24} {seconds * 1e3:9.1f} ms" for name, seconds in rows]


def _range(interval: Interval, digits: int) -> str:
    """Return the interval in brackets; nothing where the hardware file has no error bars."""
    if interval.low == interval.high:
        return ""
    return f" ({interval.low:,.{digits}f} to {interval.high:,.{digits}f})"


def _memory_lines(name: str, lines: Mapping[str, float], most: float) -> list[str]:
    used = sum(lines.values())
    parts = [f"  {each:<40} {bytes_text(size):>10}" for each, size in lines.items()]
    return [f"{name}: {bytes_text(used)} of {bytes_text(most)}", *parts]


def as_json(model: str, tuned: _Tuned) -> dict[str, Any]:
    """Return the result as one JSON object."""
    from ..cost_model.policy_text import to_json

    prediction = tuned.prediction

    def three(interval: Interval) -> list[float]:
        return [interval.low, interval.expected, interval.high]

    return {
        "model": model,
        "policy": to_json(prediction.policy),
        "tokens_per_s": three(prediction.throughput),
        "step_s": three(prediction.step),
        "prefill_s": three(prediction.prefill),
        "bound": prediction.bound,
        "bound_share": prediction.bound_share,
        "roofs_s": prediction.roofs,
        "gpu_bytes": prediction.gpu,
        "host_bytes": prediction.host,
        "lifts": {lift.what: lift.gain for lift in tuned.lifts},
        "bf12_gain": tuned.packed,
        "search_s": tuned.seconds,
        "tried": tuned.found.tried,
        "solved": tuned.found.solved,
    }


def _curve_json(curve: HostCurve | None) -> dict[str, Any]:
    """Return the throughput by host memory; nothing where no plot was asked for."""
    if curve is None:
        return {}
    rows = [
        {"host_bytes": p.host_memory, "tokens_per_s": p.rate.expected, "bound": p.bound,
         "bound_tokens_per_s": p.bound_rate, "batch": p.policy.batch}
        for p in curve.points
    ]  # fmt: skip
    return {"rate_by_host_memory": rows, "host_memory_saving": curve.saving}
