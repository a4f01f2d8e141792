"""Sparse attention: what it costs in accuracy (counts, on any machine); `bench.sparse_speed` times
it on a GPU, into the same file of results.

    python -m bench.sparse_attention [--only perplexity retrieval gpu calibration]
        [--model tiny-dense] [--json] [--record]

Perplexity is of the whole of zoo/heldout.txt in sequences of 4096 tokens, by the CPU's compiled
kernels, every token a decode step of its own; its loss counts tokens with more than 1024 before
them. Retrieval is key-value questions and needles over contexts of 512 to 7900 tokens (the models
were trained to 8192; policies of a fixed share are asked up to 2048), by the oracle of those
kernels: the context is read densely, question and answer sparsely. Questions are drawn from a seed
on which no policy was chosen. `gpu` is perplexity by the oracle on a GPU, as its kernels select:
queries rounded to bytes, scores by steps; left out where there is none. `_loss_error` is the
standard error of the points lost. Keys end in the policy's name; `perplexity_loss` and
`retrieval_loss_points` are the worst over the models, of the adaptive policy with its tail
(POLICIES["adaptive_tail"]), those with `_no_tail` of the same without, and those with `_strict` of
one that reads more, chosen on other questions. `calibration_tiny_s` is what calibrating the slower
model takes on this CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from weft.cli.attention import use_device
from weft.evaluation.attention import judged
from weft.evaluation.harness import Evaluation, Measured, Plan
from weft.evaluation.kernels import KernelSubject
from weft.evaluation.report import table
from weft.evaluation.subject import Subject
from weft.frontend.checkpoints.checkpoint import ZOO, open_checkpoint
from weft.ir.sparse.loss_table import FILE_NAME, MeasuredLoss, save_losses, worst_length
from weft.ir.sparse.policy import parse_policy

from bench.documents.sparse import mean_lost, points_lost
from bench.sparse.calibration import calibration

Figures = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "sparse_attention.json"
MODELS = ("tiny-dense", "tiny-moe")
POLICIES = {
    "fixed": "sparse(ratio=1/16)",
    "wide": "sparse(ratio=1/16, channels=32)",
    "wide_tail": "sparse(ratio=1/16, channels=32, tail=mean)",
    "adaptive": "sparse(top_p=0.8, channels=32)",
    "adaptive_tail": "sparse(top_p=0.8, channels=32, tail=mean)",
    "strict_tail": "sparse(top_p=0.9, channels=32, tail=mean)",
}
"""Names in keys, and policies. A label takes 1/16 of a bf16 row of k (fixed), or 1/8 (the rest)."""
QUESTIONS = {512: 24, 1024: 24, 2048: 24, 4096: 16, 7900: 12}
"""Contexts of eight questions, of each kind, by their length in tokens."""
SEED = 2026
PLANS = {
    "perplexity": [Plan(parts=("perplexity",), text=ZOO / "heldout.txt", tokens=1 << 20)],
    "retrieval": [
        Plan(parts=("pairs", "needles"), lengths=(length,), contexts=contexts, seed=SEED)
        for length, contexts in QUESTIONS.items()
    ],
}
PLANS["gpu"] = PLANS["perplexity"]
LEFT_OUT = {"retrieval": {"wide": 0, "fixed": 2048, "wide_tail": 2048}}
"""Policies that a section measures to contexts of so many tokens only."""


def measure(section: str, model: str) -> Iterator[Figures]:
    """Yield the figures of a section for a model, plan by plan, and print them."""
    if section == "calibration":
        found = calibration(model)
        print(f"{model}: {found}", flush=True)
        yield {f"calibration_{model.replace('-', '_')}": found}
        return
    checkpoint, on_gpu = open_checkpoint(model), section == "gpu"
    kernels, device = section == "perplexity", "cuda" if on_gpu else "cpu"
    subject = KernelSubject(checkpoint) if kernels else Subject(checkpoint, device)
    at, left_out = model.replace("-", "_"), LEFT_OUT.get(section, {})
    for plan in PLANS[section]:
        policies = {
            name: parse_policy(text)
            for name, text in POLICIES.items()
            if plan.lengths[0] <= left_out.get(name, plan.lengths[0])
        }
        attentions = judged(checkpoint, list(policies.values()), words=on_gpu)
        found = Evaluation(subject, attentions, plan).run()
        print(table(model, found), flush=True)
        yield {
            f"{key}_{at}_{name}{'_gpu' * on_gpu}": value
            for name, policy in policies.items()
            for key, value in _of(found[str(policy)]).items()
        }


def _of(value: Measured) -> Figures:
    """Return one attention's figures: losses, and the shares of tokens and bytes read."""
    figures: Figures = {}
    if value.perplexity:
        figures = {
            "perplexity_loss": round(value.perplexity.loss, 4),
            "perplexity_loss_standard_error": round(value.perplexity.error, 4),
            "tokens_read": round(value.read["perplexity"], 4),
            "bytes_read": round(value.bytes["perplexity"], 4),
        }
    for kind, lengths in value.retrieval.items():
        for length, right in lengths.items():
            figures[f"{kind}_{length}"] = round(right, 4)
            against = value.against[kind][length]
            figures[f"{kind}_{length}_loss_points"] = round(against.points, 2)
            figures[f"{kind}_{length}_loss_error"] = round(against.error, 2)
            figures[f"{kind}_{length}_questions"] = against.asked
            figures[f"{kind}_{length}_bytes_read"] = round(value.bytes[f"{kind} {length}"], 4)
    return figures


def headline(figures: Figures) -> Figures:
    """Return the figures over all models: the worst loss, the mean of retrieval by model, and how
    long the slower is calibrated."""
    found: Figures = {}
    calibrated = [figures.get(f"calibration_{model.replace('-', '_')}") for model in MODELS]
    if all(calibrated):
        found["calibration_tiny_s"] = max(each["seconds"] for each in calibrated if each)
    for key, policy in HEADLINES.items():
        ends = [f"{model.replace('-', '_')}_{policy}" for model in MODELS]
        names = [f"perplexity_loss_{end}" for end in ends]
        if all(name in figures for name in names):
            found[f"perplexity_loss{key}"] = max(figures[name] for name in names)
        means = [mean_lost(figures, end) for end in ends]
        if all(means):
            points, error = max(mean for mean in means if mean)
            found[f"retrieval_loss_points{key}"] = round(points, 2)
            found[f"retrieval_loss_error{key}"] = round(error, 2)
    return found


def keep(figures: Figures, section: str, model: str, file: Path) -> None:
    """Merge the figures of a section into a file, with the machine that it was measured on; losses
    go beside the shipped model, too, where `max_loss` looks for them."""
    if section == "gpu":
        from bench import gpu_kernels as machine
    else:
        from bench import cpu as machine
    machine.record(figures, [f"{section} {model}"], file)
    if section in ("perplexity", "retrieval") and file == RESULTS:
        rows = loss_rows(recorded(file), model)
        save_losses(ZOO / model / FILE_NAME, open_checkpoint(model).identity, rows)


def loss_rows(figures: Figures, model: str) -> list[MeasuredLoss]:
    """Return the table of losses of a model from a record's figures: of each policy that was
    measured by perplexity and at some lengths by retrieval."""
    at, rows = model.replace("-", "_"), []
    for name, policy in POLICIES.items():
        points = points_lost(figures, f"{at}_{name}")
        if points and f"perplexity_loss_{at}_{name}" in figures:
            rows.append(MeasuredLoss(policy, figures[f"perplexity_loss_{at}_{name}"],
                                     figures[f"bytes_read_{at}_{name}"],
                                     *worst_length(points)))  # fmt: skip
    return rows


def recorded(file: Path | None) -> Figures:
    """Return the figures of a results file, if there is one."""
    return json.loads(file.read_text())["figures"] if file and file.exists() else {}


HEADLINES = {"": "adaptive_tail", "_no_tail": "adaptive", "_strict": "strict_tail"}
"""What figures over all models end in, and whose they are."""
SECTIONS = ("perplexity", "retrieval", "calibration", "gpu")


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="run these sections")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", nargs="?", type=Path, const=RESULTS, help="merge into a file")
    options = parser.parse_args()
    use_device("cpu", options.threads)
    figures: Figures = {}
    for section in options.only or SECTIONS[: len(SECTIONS) - (not torch.cuda.is_available())]:
        for model in options.model:
            for found in measure(section, model):
                figures |= found
                figures |= headline(recorded(options.record) | figures)
                if options.record:
                    keep(figures, section, model, options.record)
    for key in ("perplexity_loss", "retrieval_loss_points"):
        for name in (key + end for end in HEADLINES):
            if name in figures:
                print(f"{name} {figures[name]}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
