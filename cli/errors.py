"""Errors as the terminal shows them: with the source line, also where the runtime raised them."""

from __future__ import annotations

import re
from pathlib import Path

from ..ir.diagnostics import WeftError, reason
from ..ir.source import Source

FLAGS = {"offload_host_memory": "--host-memory", "offload_policy": "--offload-policy",
         "remote_concurrency": "--remote-concurrency", "gpu_memory": "--gpu-memory",
         "kv_memory": "--kv-memory", "kv_host_memory": "--kv-host-memory",
         "max_loss": "--max-loss", "calibration": "--calibration",
         "weight_copies": "--weight-copies"}  # fmt: skip
"""Options that have a flag of their own on the command line."""


def as_typed(error: WeftError) -> WeftError:
    """Return the error of an option with its name as the command line has it."""
    from ..options import BadOption

    if not isinstance(error, BadOption):
        return error
    fields = {name: _as_typed(text) for name, text in error.fields.items()}
    return BadOption(span=error.span, notes=error.notes, source=error.source, **fields)


def _as_typed(text: str) -> str:
    def flag(found: re.Match[str]) -> str:
        name = found[0]
        if name in FLAGS:
            return FLAGS[name]
        return f"--{found[1]} {found[2]}=" if found[1] else name

    return re.sub(rf"\b(?:{'|'.join(FLAGS)}|(offload|remote)_(\w+))\b(?!=)", flag, text)


class SystemRefused(WeftError):
    """A file or the output that the system would not read or write."""

    kind = "file error"
    template = "{what}: {problem}"


class NestedTooDeeply(WeftError):
    """Text or data inside one another, more than Python's stack holds."""

    template = "what was given is nested too deeply to be read"
    hint = "a file that was made by a program may be broken: look for brackets that never close"


def of_system(error: OSError) -> SystemRefused:
    """Return what the system refused as a user's error; without a file it was the output."""
    what = error.filename if error.filename is not None else "the output cannot be written"
    return SystemRefused(what=what, problem=reason(error))


def with_lines(error: WeftError) -> WeftError:
    """Return the error with its source at hand, if it names a file that can be read."""
    if error.source is not None or error.span is None:
        return error
    try:
        text = Path(error.span.source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return error
    return error.with_source(Source(error.span.source, text))
