"""Whether an answer is a value of its gen's type: nothing that does not parse is accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from ...ir.core import Operation, Term
from ...ir.diagnostics import WeftError
from ...ir.values import parse_value
from ..constraints.whole import fits


class Types(Protocol):
    """What is known of a program's types: its records, and schemas and grammars as source."""

    @property
    def records(self) -> Mapping[str, Operation]: ...  # noqa: D102
    @property
    def schemas(self) -> Mapping[Term, tuple[str, str]]: ...  # noqa: D102


def problem_of(type: Term, types: Types, text: str) -> str | None:
    """Return what is wrong with a text as a value of a type, None where nothing is."""
    try:
        value = parse_value(type, types.records, text)
    except WeftError as error:
        return error.message
    kind, source = types.schemas.get(type, ("", ""))
    if kind == "json":
        text = json.dumps(ordered(value, json.loads(source)), ensure_ascii=False)
    if kind and not fits(kind, source, text):
        shown = text if len(text) <= 80 else text[:77] + "..."
        return f"{shown!r} does not fit its {'schema' if kind == 'json' else 'grammar'}"
    return None


def ordered(value: Any, schema: Any) -> Any:
    """Return a JSON value with its keys in the order of a schema's properties."""
    if isinstance(value, dict) and isinstance(schema, dict):
        properties = schema.get("properties") or {}
        names = [*(name for name in properties if name in value),
                 *(name for name in value if name not in properties)]  # fmt: skip
        return {name: ordered(value[name], properties.get(name)) for name in names}
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, dict) else None
        return [ordered(item, items) for item in value]
    return value
