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
    """Return the bytes of `512MiB`, `2GiB` (`2G` too), `16GB` (of 1000 MB), `100000`; raises
    BadOption."""
    from ..options import BadOption

    given = text.strip().lower()
    base = 1000 if given.endswith("b") and not given.endswith("ib") else 1024
    number = given.removesuffix("ib").removesuffix("b")
    unit = number[-1:] if number[-1:] in tuple("kmgt") else ""
    try:
        size = int(float(number.removesuffix(unit)) * base ** " kmgt".index(unit or " "))
    except (ValueError, OverflowError):
        raise BadOption(problem=f"{text!r} is no size", hint="write 512MiB or 2GiB") from None
    if size < 0:
        raise BadOption(problem=f"{text!r} is below nothing", hint="write 512MiB or 2GiB")
    return size
