"""What the commands print with: one console for results, one for remarks, units for people."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """The console of results, on standard output."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def remarks() -> Console:
    """The console of progress and summaries, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit(text: str) -> None:
    """Print plain text (IR, source): never wrapped, never coloured."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def parse_size(text: str) -> int:
    """Return the bytes of `512MiB`, `2GiB`, `100000`; raises BadOption."""
    from ..options import BadOption

    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    number = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        size = int(float(number.removesuffix(unit)) * units[unit])
    except (ValueError, OverflowError):
        raise BadOption(problem=f"{text!r} is no size", hint="write 512MiB or 2GiB") from None
    if size < 0:
        raise BadOption(problem=f"{text!r} is below nothing", hint="write 512MiB or 2GiB")
    return size
