"""The tables of sparse attention: what each policy loses, by perplexity and by retrieval, and what
it takes of a GPU beside what it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from weft.evaluation.paired import NORMAL_95
from weft.ir.sparse.loss_table import worst_length

MODELS = ("tiny_dense", "tiny_moe")
KINDS = ("pairs", "needles")
LENGTHS = (512, 1024, 2048, 4096, 7900)
ROWS = {
    "sparse(ratio=1/16, channels=32)": ("wide", "ratio"),
    "sparse(ratio=1/16, channels=32, tail=mean)": ("wide_tail", "tail"),
    "sparse(top_p=0.8, channels=32)": ("adaptive", "top_p"),
    "sparse(top_p=0.8, channels=32, tail=mean)": ("adaptive_tail", "top_p_tail"),
    "sparse(top_p=0.9, channels=32, tail=mean)": ("strict_tail", "strict_tail"),
}
"""Policies, with their names in `bench.sparse_attention` and in `bench.sparse_speed`."""
POLICIES = {
    "fixed": "sparse(ratio=1/16)", **{loss: policy for policy, (loss, _) in ROWS.items()},
}  # fmt: skip
"""Names in `bench.sparse_attention`, and policies."""


def tradeoff(figures: Mapping[str, Any]) -> list[str]:
    """Return the rows: losses of the worse model, bytes read there, us a layer and over dense."""
    dense = figures["operation_128k_batch8"]["dense_us"]
    names = ("policy", "perplexity lost", "points of retrieval lost, worst length",
             "bytes read there", "us a layer on a GPU", "over dense", "us predicted")  # fmt: skip
    rows = [f"| {' | '.join(names)} |", "|" + "---|" * len(names),
            f"| `dense` | 0 | 0 | 1 | {dense:.0f} | 1 | |"]  # fmt: skip
    for policy, (loss, speed) in ROWS.items():
        worst = max(figures[f"perplexity_loss_{model}_{loss}"] for model in MODELS)
        read = max(figures[f"bytes_read_{model}_{loss}"] for model in MODELS)
        cells = [f"{100 * worst:+.1f} %", _retrieval(figures, loss), f"{read:.3f}",
                 *_speed(figures.get(f"policy_{speed}"), dense)]  # fmt: skip
        rows.append(f"| `{policy}` | {' | '.join(cells)} |")
    return rows


def _retrieval(figures: Mapping[str, Any], policy: str) -> str:
    """Return the points lost at the length where the worse model loses most, as a budget of loss
    counts them."""
    lost = [points_lost(figures, f"{model}_{policy}") for model in MODELS]
    return f"{max(worst_length(each)[0] for each in lost):.1f}" if all(lost) else "not measured"


def points_lost(figures: Mapping[str, Any], end: str) -> dict[int, list[float]]:
    """Return the points lost by length, one of each kind of question, where they were asked."""
    found = {length: [figures[key] for kind in KINDS
                      if (key := f"{kind}_{length}_loss_points_{end}") in figures]
             for length in LENGTHS}  # fmt: skip
    return {length: points for length, points in found.items() if points}


def mean_lost(figures: Mapping[str, Any], end: str) -> tuple[float, float] | None:
    """Return the mean over kinds and lengths of the points lost, and its standard error."""
    points = _ending(figures, f"_loss_points_{end}")
    errors = _ending(figures, f"_loss_error_{end}")
    if not points or not errors:
        return None
    return sum(points) / len(points), sum(each**2 for each in errors) ** 0.5 / len(errors)


def _ending(figures: Mapping[str, Any], end: str) -> list[float]:
    return [value for name, value in figures.items() if name.endswith(end)]


def _speed(found: Mapping[str, Any] | None, dense: float) -> list[str]:
    if found is None:
        return ["not measured"] * 3
    predicted = found.get("predicted_us")
    return [f"{found['us']:.0f}", f"{dense / found['us']:.1f} x",
            f"{predicted:.0f}" if predicted else "not recorded"]  # fmt: skip


def perplexity(figures: Mapping[str, Any]) -> list[str]:
    """Return a row a policy: of each model the perplexity lost, by exact scores and as a GPU
    selects, tokens and bytes read."""
    of_model = [f"{name}: {what}" for name in ("tiny-dense", "tiny-moe")
                for what in ("perplexity", "on a GPU", "tokens", "bytes")]  # fmt: skip
    rows = [f"| policy | {' | '.join(of_model)} |", "|" + "---|" * 9]
    for name, policy in POLICIES.items():
        cells = []
        for end in (f"{model}_{name}" for model in MODELS):
            cells += [_lost(figures, end), _lost(figures, f"{end}_gpu"),
                      f"{figures[f'tokens_read_{end}']:.3f}",
                      f"{figures[f'bytes_read_{end}']:.3f}"]  # fmt: skip
        rows.append(f"| `{policy}` | {' | '.join(cells)} |")
    return rows


def _lost(figures: Mapping[str, Any], end: str) -> str:
    if f"perplexity_loss_{end}" not in figures:
        return "not measured"
    lost = 100 * figures[f"perplexity_loss_{end}"]
    return f"{lost:+.1f} % ({100 * figures[f'perplexity_loss_standard_error_{end}']:.1f})"


ASKED = ("adaptive", "adaptive_tail", "strict_tail")


def retrieval(figures: Mapping[str, Any]) -> list[str]:
    """Return a row a model, kind and length, and of each policy the points lost, their 95 %
    interval, and the share of bytes read; last the means."""
    names = [f"`{POLICIES[policy]}`" for policy in ASKED]
    rows = [f"| model, questions | {' | '.join(names)} |", "|" + "---|" * (1 + len(ASKED))]
    for model in MODELS:
        title = model.replace("_", "-")
        for kind in KINDS:
            for length in LENGTHS:
                asked = figures[f"{kind}_{length}_questions_{model}_adaptive"]
                cells = [_cell(figures, f"{kind}_{length}", f"{model}_{policy}")
                         for policy in ASKED]  # fmt: skip
                rows.append(f"| {title}, {kind}, {length} tokens ({asked}) | {' | '.join(cells)} |")
        means = [_mean(figures, f"{model}_{policy}") for policy in ASKED]
        rows.append(f"| {title}, mean | {' | '.join(means)} |")
    return rows


def _cell(figures: Mapping[str, Any], question: str, end: str) -> str:
    lost, error = (figures[f"{question}_loss_{what}_{end}"] for what in ("points", "error"))
    return f"{lost:+.1f} ± {NORMAL_95 * error:.1f} ({figures[f'{question}_bytes_read_{end}']:.3f})"


def _mean(figures: Mapping[str, Any], end: str) -> str:
    found = mean_lost(figures, end)
    return f"{found[0]:+.1f} ± {NORMAL_95 * found[1]:.1f}" if found else "not measured"


Table = Callable[[Mapping[str, Any]], list[str]]
SPARSE_TABLES: dict[str, tuple[Table, tuple[str, ...]]] = {
    "sparse_tradeoff": (
        tradeoff,
        (
            "perplexity tiny-dense",
            "perplexity tiny-moe",
            "retrieval tiny-dense",
            "retrieval tiny-moe",
            "speed policies",
            "speed operation",
        ),
    ),
    "sparse_perplexity": (
        perplexity,
        ("perplexity tiny-dense", "perplexity tiny-moe", "gpu tiny-dense", "gpu tiny-moe"),
    ),
    "sparse_retrieval": (retrieval, ("retrieval tiny-dense", "retrieval tiny-moe")),
}
"""Tables by name, with the sections of the record that they are made of."""
