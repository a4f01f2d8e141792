"""Errors as the terminal shows them: with the source line, also where the runtime raised them."""

from __future__ import annotations

from pathlib import Path

from ..ir.diagnostics import WeftError
from ..ir.source import Source


def with_lines(error: WeftError) -> WeftError:
    """Return the error with its source at hand, if it names a file that can be read."""
    if error.source is not None or error.span is None:
        return error
    try:
        text = Path(error.span.source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return error
    return error.with_source(Source(error.span.source, text))
