"""Tables of offloading: throughput by host memory, and what else was measured, of the record.

The record of `bench.moe_offload` has rows of its own for these, which no single figure is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

GIB = 1 << 30
Rows = Iterator[str]


def host_memory(figures: dict[str, Any]) -> Rows:
    """Yield the measured points, exact pages first, and what they save at the same throughput."""
    exact, lossy = (figures.get(f"rate_by_host_memory{end}") for end in ("", "_int8"))
    if not exact:
        yield "| figure | not measured |"
        return
    yield "| figure | host memory | sequences | tokens/s | of all-resident | its bound allows |"
    yield "|---|---|---|---|---|---|"
    whole = exact[0]
    for row in (*exact, *(lossy or ())):
        loss = ", lossy" if row in (lossy or ()) else ""
        name = "all-resident: pages of bf16" if row is whole else f"pages of {row['pages']}{loss}"
        share = row["tokens_per_s"] / whole["tokens_per_s"]
        yield (f"| {name} | {row['host_bytes'] / GIB:.1f} GiB | {row['batch']} | "
               f"{row['tokens_per_s']:,.0f} | {100 * share:.0f} % | "
               f"{row['bound_tokens_per_s']:,.0f} ({row['bound']}) |")  # fmt: skip
    yield ""
    for end, what in (("", "exact pages"), ("_int8", "pages of int8, lossy")):
        saving = figures.get(f"host_memory_saving{end}")
        reach = "do not reach it" if saving is None else f"have it in {saving:.2f}x less"
        yield f"* 95 % of the rate of all-resident: {what} {reach}."


def variants(figures: dict[str, Any]) -> Rows:
    """Yield each variant beside its prediction."""
    yield "| figure | tokens/s | predicted | share of its bound |"
    yield "|---|---|---|---|"
    for name, row in figures.get("variants", {}).items():
        error = row["predicted_tokens_per_s"] / row["tokens_per_s"] - 1
        yield (f"| {name} | {row['tokens_per_s']:,.0f} | {row['predicted_tokens_per_s']:,.0f} "
               f"({100 * error:+.0f} %) | {100 * row['fraction_of_bound']:.0f} % "
               f"({row['bound']}) |")  # fmt: skip


def disk(figures: dict[str, Any]) -> Rows:
    """Yield the model that is larger than host memory."""
    row = figures.get("disk")
    if not row:
        yield "| figure | not measured |"
        return
    yield "| figure | pages on disk | host memory | tokens/s | in memory | read from the file |"
    yield "|---|---|---|---|---|---|"
    name = f"two layers, {'the same tokens' if row['same_tokens'] else 'OTHER tokens'}"
    pages, host = f"{row['pages_on_disk']} of {row['pages']}", f"{row['host_bytes'] / GIB:.1f} GiB"
    rates = f"{row['tokens_per_s']:,.0f} | {row['tokens_per_s_in_memory']:,.0f}"
    yield f"| {name} | {pages} | {host} | {rates} | {row['bytes_per_s'] / 1e9:.1f} GB/s |"


def measured_at(name: str, record: dict[str, Any]) -> list[Any]:
    """Return where a table's figures were measured (None: they were not): each variant by itself,
    where it says so."""
    section = record["sections"].get(name)
    rows = record["figures"].get("variants", {}) if name == "variants" else {}
    return [row.get("source", section) for row in rows.values()] or [section]


OFFLOAD_TABLES: dict[str, Callable[[dict[str, Any]], Rows]] = {
    "host_memory": host_memory,
    "variants": variants,
    "disk": disk,
}
"""By the section of the record that they are of."""
