"""Numbers for people: durations, bytes, rates, counts."""

from __future__ import annotations

from math import ceil
from typing import Any

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def bytes_text(count: float) -> str:
    """Return a count of bytes for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(count, 1) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB"


class Size(float):
    """A count of bytes that a message writes for people: `f"{Size(1536)}"` is `1.5 KiB`."""

    def __format__(self, spec: str) -> str:
        return format(bytes_text(float(self)), spec)


def sizes(**counts: float) -> dict[str, Any]:
    """Return counts of bytes as fields of a message: Size each."""
    return {name: Size(count) for name, count in counts.items()}


def least_size(count: float) -> str:
    """Return a size of at least so many bytes, rounded up, as options take it: 19MiB."""
    mib = 1 << 20
    return f"{ceil(count / mib)}MiB" if count < 64 << 30 else f"{ceil(count / (mib << 10))}GiB"


def seconds_text(seconds: float) -> str:
    """Return a duration for people: 12.3 us, 4.56 ms, 7.89 s."""
    for scale, unit in ((1e-6, "us"), (1e-3, "ms")):
        if round(seconds / scale, 1) < 1000:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.2f} s"


def si(value: float, unit: str = "") -> str:
    """Return a number with an SI prefix and three digits: 12.5 GB/s."""
    for scale, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * scale:  # what three digits round up to it
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def counted(count: int, noun: str) -> str:
    """Return `1 call`, `2 calls`, `12,345 calls`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
