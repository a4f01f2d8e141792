"""Names of values in Triton's text."""

from __future__ import annotations

import keyword

_RESERVED = frozenset("tl triton launch num_warps num_stages range grid programs".split())


def identifier(name: str) -> str:
    """Return a value's name as Python may have it."""
    return name + "_" if keyword.iskeyword(name) or name in _RESERVED else name
