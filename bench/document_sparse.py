"""The table of docs/sparse_attention.md: what each policy loses, beside what it takes of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODELS = ("tiny_dense", "tiny_moe")
ROWS = {
    "sparse(ratio=1/16, channels=32)": ("wide", "ratio"),
    "sparse(ratio=1/16, channels=32, tail=mean)": ("wide_tail", "tail"),
    "sparse(top_p=0.8, channels=32)": ("adaptive", "top_p"),
    "sparse(top_p=0.8, channels=32, tail=mean)": ("adaptive_tail", "top_p_tail"),
}
"""Policies, with their names in `bench.sparse_attention` and in `bench.sparse_speed`."""
SECTIONS = ("perplexity tiny-moe", "retrieval tiny-moe", "speed policies", "speed operation")


def tradeoff(figures: Mapping[str, Any]) -> list[str]:
    """Return the rows: losses of the worse model, bytes read there, us a layer and over dense."""
    dense = figures["operation_128k_batch8"]["dense_us"]
    names = ("policy", "perplexity lost", "retrieval lost, points", "bytes read there",
             "us a layer on a GPU", "over dense", "us predicted")  # fmt: skip
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
    """Return the mean over kinds and lengths of points lost, of the worse model."""
    lost = [[value for name, value in figures.items()
             if name.endswith(f"_loss_points_{model}_{policy}")] for model in MODELS]  # fmt: skip
    if not all(lost):
        return "not measured"
    return f"{max(sum(each) / len(each) for each in lost):.1f}"


def _speed(found: Mapping[str, Any] | None, dense: float) -> list[str]:
    if found is None:
        return ["not measured"] * 3
    predicted = found.get("predicted_us")
    return [f"{found['us']:.0f}", f"{dense / found['us']:.1f} x",
            f"{predicted:.0f}" if predicted else "not recorded"]  # fmt: skip
