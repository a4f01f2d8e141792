"""What an evaluation found, as a Markdown table and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..ir.sparse.loss_table import MeasuredLoss, worst_length
from .harness import Measured


def table(model: str, found: Mapping[str, Measured]) -> str:
    """Return a table, a column an attention; beside an accuracy the share of bytes read and the
    points lost with their 95 % interval."""
    columns = list(found.values())
    lines = [f"| {model} | " + " | ".join(column.name for column in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in _rows(columns)]
    return "\n".join(lines)


def _rows(columns: list[Measured]) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    if columns[0].perplexity:
        rows += _perplexity_rows(columns)
    for kind, lengths in columns[0].retrieval.items():
        for length in lengths:
            cells = [_retrieval_cell(column, kind, length) for column in columns]
            rows.append((f"{kind}, {length} tokens (bytes; points lost)", cells))
    if columns[0].tasks:
        rows.append(("tasks, mean (bytes)",
                     [f"{c.task_mean:.3f} ({c.bytes['tasks']:.3f})" for c in columns]))  # fmt: skip
    return rows


def _retrieval_cell(column: Measured, kind: str, length: int) -> str:
    right, share = column.retrieval[kind][length], column.bytes[f"{kind} {length}"]
    lost = "" if column.name == "dense" else f"; {column.against[kind][length]}"
    return f"{right:.3f} ({share:.3f}{lost})"


def _perplexity_rows(columns: list[Measured]) -> list[tuple[str, list[str]]]:
    values = [c.perplexity for c in columns if c.perplexity]
    return [
        ("perplexity, all tokens", [f"{v.all:.3f}" for v in values]),
        ("perplexity, long contexts", [f"{v.beyond:.3f}" for v in values]),
        ("loss against dense", [f"{v.loss:+.2%} (se {v.error:.2%})" for v in values]),
        ("share of tokens read", [f"{c.read['perplexity']:.3f}" for c in columns]),
        ("share of bytes read", [f"{c.bytes['perplexity']:.3f}" for c in columns]),
    ]


def figures(found: Mapping[str, Measured]) -> dict[str, Any]:
    """Return everything as plain values, by attention."""
    return {name: asdict(value) | {"task_mean": value.task_mean} for name, value in found.items()}


def loss_rows(found: Mapping[str, Measured]) -> list[MeasuredLoss]:
    """Return what a budget of loss goes by, a row a policy that was measured by perplexity and by
    retrieval."""
    rows = []
    for name, each in found.items():
        if name != "dense" and each.perplexity and each.against:
            points: dict[int, list[float]] = {}
            for lengths in each.against.values():
                for length, against in lengths.items():
                    points.setdefault(length, []).append(against.points)
            lost, share = each.perplexity.loss, each.bytes["perplexity"]
            rows.append(MeasuredLoss(name, lost, share, *worst_length(points)))
    return rows


def losses(found: Mapping[str, Measured]) -> list[tuple[str, str, float, float]]:
    """Return the points of the plot: attention, measure, share of bytes, loss in percent."""
    dense = next(iter(found.values()))
    points = []
    for each in list(found.values())[1:]:
        if each.perplexity:
            share, loss = each.bytes["perplexity"], 100 * each.perplexity.loss
            points.append((each.name, "perplexity, %", share, loss))
        for kind, lengths in each.retrieval.items():
            for length, right in lengths.items():
                share = each.bytes[f"{kind} {length}"]
                lost = 100 * (dense.retrieval[kind][length] - right)
                points.append((each.name, f"{kind} {length}, points", share, lost))
    return points
