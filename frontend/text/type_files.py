"""Reads the files that types name: a JSON Schema, or a context-free grammar."""

from __future__ import annotations

import json
from pathlib import Path

from ...ir import strict_json
from ...ir.constraints.schema_form import TOO_DEEP, faults
from ...ir.diagnostics import WeftTypeError, reason
from ...ir.source import Source, Span

FILE_TYPES = ("schema", "grammar")

UNREAD = {"schema": "{}", "grammar": ""}
"""What stands for the text of a file that cannot be read, where that is told and not raised."""


class UnreadableTypeFile(WeftTypeError):
    """A schema or grammar file that is missing or broken."""

    template = "the {kind} {path!r} cannot be read: {problem}"
    hint = "the path is relative to the program's file"


_INSIDE = "a place such as #/properties/age is inside the file: `age` in its `properties`"
_FLATTER = "what stands inside can stand under $defs, and be named by $ref"


def read_type_file(kind: str, path: str, source: Source, span: Span) -> str:
    """Return the text of the file that a type names; a schema on one line."""

    def unreadable(problem: str, hint: str = "") -> UnreadableTypeFile:
        return UnreadableTypeFile(
            kind=kind, path=path, problem=problem, hint=hint, span=span, source=source
        )

    place = Path(source.name).parent / path
    try:
        text = place.read_text(encoding="utf-8-sig")
        if kind == "grammar":
            return text
        schema = strict_json.loads(text, finite=True)
    except RecursionError:
        raise unreadable(TOO_DEEP, _FLATTER) from None
    except (OSError, ValueError) as error:
        raise unreadable(reason(error)) from None
    problem = next(faults(schema), "" if isinstance(schema, dict) else "a schema is a JSON object")
    if problem:
        raise unreadable(problem, _FLATTER if problem == TOO_DEEP else _INSIDE)
    return json.dumps(schema, ensure_ascii=False)
