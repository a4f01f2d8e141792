"""`weft calibrate-attention` and `weft evaluate`: sparse attention prepared, and judged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.diagnostics import reason
from ..options import BadOption
from .output import check_file, check_picture, write_picture
from .render import emit, remarks

COPY = "copy the model to a folder of yours"
LOSSES = ("perplexity", "pairs", "needles")
"""The parts of an evaluation that a budget of loss goes by."""
ABLE = 0.5
"""The share of questions from which on a model is able to lose some of them."""

if TYPE_CHECKING:
    from ..evaluation.harness import Measured, Plan
    from ..frontend.checkpoints.checkpoint import Checkpoint
    from ..ir.sparse.policy import SparsePolicy


@dataclass(frozen=True)
class CalibrateOptions:
    """What `weft calibrate-attention` was asked for."""

    model: str
    text: Path
    tokens: int
    out: Path | None
    statistic: str
    target: str
    threads: int


def calibrate(options: CalibrateOptions) -> None:
    """Choose the channels of labels, and write them next to the checkpoint."""
    from time import perf_counter

    from ..evaluation.calibration import FEWEST, calibrate_attention
    from ..frontend.checkpoints.checkpoint import open_checkpoint
    from ..ir.sparse.calibration import STATISTICS
    from ..ir.sparse.calibration_file import save_calibration

    if options.statistic not in STATISTICS:
        known = ", ".join(STATISTICS)
        raise BadOption(problem=f"--statistic is one of {known}, not {options.statistic!r}")
    if options.tokens < FEWEST:
        raise BadOption(problem=f"--tokens is at least {FEWEST}, not {options.tokens}")
    checkpoint = open_checkpoint(options.model)
    out = options.out or checkpoint.calibration_file
    if out is None:
        raise BadOption(problem=f"{options.model} has no folder to write into: give --out FILE")
    check_file(out, "--out")
    device = use_device(options.target, options.threads)
    begun = perf_counter()
    with remarks().status(f"reading {options.text}"):
        found = calibrate_attention(
            checkpoint, options.text, options.tokens, options.statistic, device
        )
    save_calibration(found, out)
    remarks().print(
        f"{found.provenance.tokens} tokens, {len(found.layers)} layers of {found.kv_heads} "
        f"key/value heads in {perf_counter() - begun:.1f} s; saved in {out}",
        markup=False,
    )


@dataclass(frozen=True)
class EvaluateOptions:
    """What `weft evaluate` was asked for."""

    model: str
    attention: str
    only: str
    lengths: str
    contexts: int
    text: Path | None
    tokens: int
    chunk: int
    beyond: int
    examples: int
    calibration: Path | None
    statistic: str
    plot: Path | None
    save: bool
    seed: int
    target: str
    kernels: bool
    threads: int
    json: bool


def evaluate(options: EvaluateOptions) -> None:
    """Measure, print the table, draw the plot."""
    import json

    from ..evaluation.attention import judged
    from ..evaluation.harness import Evaluation
    from ..evaluation.kernels import KernelSubject
    from ..evaluation.report import figures, table
    from ..evaluation.subject import Subject
    from ..frontend.checkpoints.checkpoint import open_checkpoint
    from ..ir.sparse.policy import parse_policies

    check_picture(options.plot)
    policies, plan = parse_policies(options.attention), plan_of(options)
    checkpoint = open_checkpoint(options.model)
    if options.save:
        require_losses_kept(checkpoint, policies, plan, options.calibration)
    words, statistic = options.target == "cuda", published_statistic(options)
    attentions = judged(checkpoint, policies, options.calibration, statistic, words)
    device = use_device(options.target, options.threads)
    if options.kernels and device != "cpu":
        raise BadOption(problem="--kernels runs those of the CPU", hint="leave --target out")
    subject = (
        KernelSubject(checkpoint, options.threads, options.calibration)
        if options.kernels
        else Subject(checkpoint, device)
    )
    with remarks().status("measuring") as status:
        report = lambda part: status.update(f"measuring {part}")  # noqa: E731
        found = Evaluation(subject, attentions, plan, report).run()
    emit(table(checkpoint.name, found))
    if options.json:
        emit(json.dumps(figures(found)))
    try:
        if options.save:
            save(checkpoint, found)
    finally:  # one full disk loses neither the table of losses nor the picture on another
        if options.plot is not None:
            plot(checkpoint.name, found, options.plot)


def plot(model: str, found: Mapping[str, Measured], file: Path) -> None:
    """Draw loss against bytes read; raises NotWritten."""
    from ..evaluation.report import losses
    from ..plots.attention_loss import loss_against_bytes

    write_picture(loss_against_bytes(losses(found), f"{model}: loss against bytes read"), file)


def published_statistic(options: EvaluateOptions) -> str:
    """Return which of the published layout's lists of channels to take; raises BadOption."""
    if options.statistic and options.calibration is None:
        problem = "--statistic picks among the lists of a file of the published layout"
        raise BadOption(problem=problem, hint="name the file: --calibration FILE")
    if options.statistic not in ("", "q", "k", "qk"):
        raise BadOption(problem=f"--statistic is one of q, k, qk, not {options.statistic!r}")
    if options.kernels and options.statistic not in ("", "qk"):
        problem = "--kernels take the lists of q*k of a file of the published layout"
        raise BadOption(problem=problem, hint="leave out --statistic, or --kernels")
    return options.statistic or "qk"


def require_losses_kept(
    checkpoint: Checkpoint, policies: Sequence[SparsePolicy | None], plan: Plan,
    calibration: Path | None,
) -> None:  # fmt: skip
    """Raise BadOption where `--save` would have nothing to keep, or no place."""
    folder = checkpoint.folder
    if folder is None:
        problem, hint = f"{checkpoint.name} has no folder for its losses", "take a model's folder"
    elif not os.access(folder, os.W_OK):
        problem, hint = f"losses cannot be written to {folder}", COPY
    elif not {*LOSSES} <= {*plan.parts}:
        problem = "--save keeps losses of perplexity and of retrieval"
        hint = f"leave out --only, or give --only {','.join(LOSSES)}"
    elif calibration is not None:
        problem = "--save keeps what the model loses by its own calibration"
        hint = "leave out --save, or put the file beside the checkpoint"
    elif not any(policies):
        problem, hint = "--save keeps what sparse policies lose", "name one with --attention"
    else:
        return
    raise BadOption(problem=problem, hint=hint)


def save(checkpoint: Checkpoint, found: Mapping[str, Measured]) -> None:
    """Keep the losses beside the model; raises BadOption where that fails."""
    from ..evaluation.report import loss_rows
    from ..ir.sparse.loss_table import FILE_NAME, save_losses

    rows = loss_rows(found)
    assert checkpoint.folder is not None, "refused before"
    try:
        save_losses(checkpoint.folder / FILE_NAME, checkpoint.identity, rows)
    except OSError as error:
        problem = f"losses cannot be written to {checkpoint.folder}: {reason(error)}"
        raise BadOption(problem=problem, hint=COPY) from None
    remarks().print(f"losses kept for --max-loss: {len(rows)}", markup=False)
    right = [share for each in found["dense"].retrieval.values() for share in each.values()]
    if right and max(right) < ABLE:
        remarks().print(f"dense attention answers at most {max(right):.0%} of the questions, so "
                        "that retrieval says little of this model", markup=False)  # fmt: skip


def plan_of(options: EvaluateOptions) -> Plan:
    """Return what to measure; raises BadOption."""
    from ..evaluation.harness import PARTS, Plan
    from ..evaluation.perplexity import SHORTEST
    from ..frontend.checkpoints.checkpoint import ZOO

    parts = tuple(part.strip() for part in options.only.split(",") if part.strip()) or PARTS
    for part in parts:
        if part not in PARTS:
            known = ", ".join(PARTS)
            raise BadOption(problem=f"there is no part {part!r} to evaluate: {known}")
    lowest = {"contexts": 1, "tokens": SHORTEST, "chunk": SHORTEST, "beyond": 0, "examples": 1}
    for name, least in lowest.items():
        if getattr(options, name) < least:
            raise BadOption(problem=f"--{name} is at least {least}, not {getattr(options, name)}")
    text, held_out = options.text, ZOO / "heldout.txt"
    if "perplexity" in parts and text is None:
        if not held_out.exists():
            problem = "perplexity needs a text: give --text FILE, or --only pairs,needles"
            raise BadOption(problem=problem)
        text = held_out
    return Plan(
        parts, lengths_of(options.lengths), options.contexts, text, options.tokens, options.chunk,
        options.beyond, options.examples, options.seed,
    )  # fmt: skip


def lengths_of(text: str) -> tuple[int, ...]:
    """Return the lengths of `512,1k,8k`; raises BadOption."""
    found = []
    for part in text.lower().split(","):
        number, thousands = part.strip().removesuffix("k"), part.strip().endswith("k")
        if not number.isdecimal() or not 128 <= int(number) * (1024 if thousands else 1):
            raise BadOption(problem=f"{part.strip()!r} is no length of at least 128 tokens",
                            hint="write --lengths 512,1k,2k")  # fmt: skip
        found.append(int(number) * (1024 if thousands else 1))
    return tuple(found)


def use_device(target: str, threads: int) -> str:
    """Return torch's name of the device; let torch use so many threads (0: as the options say)."""
    from ..codegen.threads import share_cores
    from ..options import Options
    from ..runtime.devices.device import Device

    options = Options.from_env().changed(target=target)
    if threads:
        options = options.changed(threads=threads)
    share_cores(options.thread_count)
    return "cpu" if target == "cpu" else Device.find().place
