"""Reads the files that types name: a JSON Schema, or a context-free grammar."""

from __future__ import annotations

import json
from pathlib import Path

from ..ir import strict_json
from ..ir.diagnostics import WeftTypeError
from ..ir.json_schema import faults
from ..ir.source import Source, Span

FILE_TYPES = ("schema", "grammar")

UNREAD = {"schema": "{}", "grammar": ""}
"""What stands for the text of a file that cannot be read, where that is told and not raised."""


class UnreadableTypeFile(WeftTypeError):
    """A schema or grammar file that is missing or broken."""

    template = "the {kind} {path!r} cannot be read: {problem}"
    hint = "the path is relative to the program's file"


def read_type_file(kind: str, path: str, source: Source, span: Span) -> str:
    """Return the text of the file that a type names; a schema on one line."""
    place = Path(source.name).parent / path
    try:
        text = place.read_text(encoding="utf-8-sig")
        if kind == "grammar":
            return text
        schema = strict_json.loads(text, finite=True)
    except (OSError, ValueError, RecursionError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableTypeFile(
            kind=kind, path=path, problem=problem, span=span, source=source
        ) from None
    problem = next(faults(schema), "" if isinstance(schema, dict) else "a schema is a JSON object")
    if problem:
        hint = "a place such as #/properties/age is inside the file: `age` in its `properties`"
        raise UnreadableTypeFile(
            kind=kind, path=path, problem=problem, hint=hint, span=span, source=source
        )
    return json.dumps(schema, ensure_ascii=False)
