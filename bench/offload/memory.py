"""Throughput by host memory, measured: fewer sequences, pages on disk, narrower pages.

All-resident is the base setting: every page that the GPU lacks, and the keys of all sequences, lie
in host memory. Pages of twelve bits are exact, and smaller; those of int8 are lossy, so their
points, and what they save, are told apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weft.cost_model.hrm.prediction import NoDiskFigures

from .bench import Bench
from .runs import Setting, lean

SHARES = (1.0, 0.75, 0.5)
"""Sequences, of those of the base setting."""
PACKED_SHARES = (1.0, 0.8)
"""The same with pages of bf12."""
NARROW_SHARES = (0.75, 0.5, 0.375)
"""The same with pages of int8, which leave the link half of its work."""
ALIKE = 0.95
"""The share of a rate from which on it counts as the same."""

Rows = list[dict[str, Any]]


def host_memory(bench: Bench) -> dict[str, Any]:
    """Measure rates by host memory, each beside the rate that its bound allows; and the savings."""
    exact, narrow = memory_settings(bench)
    rows = [_row(bench, setting) for setting in exact]
    lossy = [_row(bench, setting) for setting in narrow]
    base, whole = bench.base, rows[0]
    return {
        "rate_by_host_memory": rows,
        "rate_by_host_memory_int8": lossy,
        "host_memory_saving": saving(rows, whole),
        "host_memory_saving_int8": saving(lossy, whole),
        "host_memory_setting": f"schedule {base.schedule}, keys of {base.kv}",
    }


def memory_settings(bench: Bench) -> tuple[list[Setting], list[Setting]]:
    """Return the settings of exact pages, the base first, and those of pages of int8.

    The tiny model keeps its batch, and leaves pages on disk: random pages have no file.
    """
    base = bench.base
    if bench.tiny:
        most = bench.ours.host_bytes
        exact = [replace(base, host_memory=int(share * most)) for share in SHARES[1:]]
        return [base, *exact], [replace(base, page_format="int8")]

    def fewer(share: float, **changes: Any) -> Setting:
        return lean(replace(base, batch=int(share * base.batch), **changes))

    narrow = [fewer(share, page_format="int8") for share in NARROW_SHARES]
    packed = [fewer(share, page_format="bf12") for share in PACKED_SHARES]
    return [*(fewer(share) for share in SHARES), *packed], narrow


def saving(rows: Rows, whole: dict[str, Any]) -> float | None:
    """Return how many times less host memory has the rate of the whole (`ALIKE` of it), on straight
    lines between points of like pages; None where no point reaches it."""
    formats = {row["pages"] for row in rows}
    each = [_least([row for row in rows if row["pages"] == format], whole) for format in formats]
    found = [least for least in each if least is not None]
    return whole["host_bytes"] / min(found) if found else None


def _least(rows: Rows, whole: dict[str, Any]) -> float | None:
    enough = ALIKE * whole["tokens_per_s"]
    ordered = sorted(rows, key=lambda row: row["host_bytes"])
    fast = next((n for n, row in enumerate(ordered) if row["tokens_per_s"] >= enough), None)
    if fast is None:
        return None
    above, below = ordered[fast], ordered[max(fast - 1, 0)]
    rise = above["tokens_per_s"] - below["tokens_per_s"]
    share = (enough - below["tokens_per_s"]) / rise if rise > 0 else 1.0
    return below["host_bytes"] + share * (above["host_bytes"] - below["host_bytes"])


def _row(bench: Bench, setting: Setting) -> dict[str, Any]:
    found = bench.measured(setting)
    try:
        prediction = bench.predicted(found)
        bound, least = prediction.bound, prediction.roofs[prediction.bound]
    except NoDiskFigures:  # the shipped file has none: a calibrated one does
        bound, least = "disk", float("inf")
    return {
        "host_bytes": setting.host_memory or found.host_bytes,
        "batch": setting.batch,
        "pages": found.policy.page_format,
        "pages_on_disk": sum(len(layer.disk) for layer in found.policy.layers),
        "tokens_per_s": found.decode_rate,
        "bound": bound,
        "bound_tokens_per_s": setting.batch / least or None,
    }
