"""Ours against other schedules, accelerate, the roofline's bound, and what is predicted."""

from __future__ import annotations

from dataclasses import replace

from ..moe_peers import NoPeer, in_process, rates
from ..moe_record import Figures
from .bench import Bench, say
from .runs import FEW_TOKENS, Setting, lean, with_schedule

PEER_BATCHES = (1024,)
"""Sequences that accelerate decodes at a time: with half of them its rate is half."""
SCHEDULES = ("cgo", "s2", "s3", "s4")
"""What ours, the ring, is compared with."""
ENOUGH = 20
"""Settings that predictions are compared on at least; more only while there is time."""


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
            from weft.frontend.checkpoints.checkpoint import open_checkpoint

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
    base = lean(replace(bench.base, batch=bench.n320))
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
