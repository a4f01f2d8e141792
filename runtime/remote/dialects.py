"""What kinds of servers speak the OpenAI API, and what each adds to it.

A server's own defaults (a repetition penalty, top-k) would change what a program means, so they are
set to what changes nothing. Where a server is unknown, only the API's own fields are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...ir.core import Operation, Term
from ...ir.values import format_value
from .gbnf import gbnf_of

Fields = dict[str, Any]


@dataclass(frozen=True)
class Holding:
    """A gen's type as an endpoint may hold a gen to it: a pattern, a JSON schema or a grammar.

    `pattern` is None where the type has none; `json` only for types that read as JSON.
    """

    type: Term
    pattern: str | None = None
    json: Fields | None = None
    grammar: str | None = None


@dataclass(frozen=True)
class Held:
    """How a call holds its gen to a type: fields of the call, and how to read the answer.

    `spaced`: the fields allow the space that a gen is healed with, and the answer begins with it.
    """

    fields: Fields = field(default_factory=dict)
    read: Callable[[str], str] = str
    spaced: bool = False


@dataclass(frozen=True)
class Dialect:
    """One kind of server.

    `neutral` are fields that switch its own defaults off; `known` the sampling options that it
    takes beyond the API's; `prefill` the fields that let it go on with an open assistant message,
    in the order to try; `usage` whether a stream can be asked for its number of tokens;
    `tokenize` the path that gives a text's tokens, where a biased token keeps its log-probability.
    """

    name: str
    hold: Callable[[Holding, bool, str], Held | None]
    neutral: Mapping[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    prefill: tuple[Mapping[str, Any], ...] = ({},)
    usage: bool = False
    tokenize: str = ""


_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


def records_layout(holding: Holding) -> Fields | None:
    """Return the JSON schema of a type without hints that are for our own engine."""
    if holding.json is None:
        return None
    return {key: value for key, value in holding.json.items() if key != "x-guidance"}


def _hold_openai(holding: Holding, chat: bool, heal: str) -> Held | None:
    """Hold by `response_format`; a value that is no JSON object is wrapped into one."""
    if not chat:
        return None
    schema = records_layout(holding)
    wrapped = schema is None or schema.get("type") != "object"
    if schema is None:
        schema = _scalar_schema(holding)
    if schema is None:
        return None
    if wrapped:
        schema = {"type": "object", "properties": {"value": schema}, "required": ["value"],
                  "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema",
            "json_schema": {"name": "value", "strict": True, "schema": schema}}  # fmt: skip
    return Held({"response_format": form}, _unwrap if wrapped else str)


def _unwrap(text: str) -> str:
    """Return the value inside of its wrapper, as it reads in a stream."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return text
    inner = isinstance(found, dict) and set(found) == {"value"}
    return format_value(found["value"]) if inner else text


def _scalar_schema(holding: Holding) -> Fields | None:
    type = holding.type
    match type.name:
        case "int":
            low, high = type.parameters or (None, None)
            bounds = {} if low is None else {"minimum": low, "maximum": high}
            return {"type": "integer", **bounds}
        case "float":
            return {"type": "number"}
        case "bool":
            return {"type": "boolean"}
        case "choice":
            return {"type": "string", "enum": list(type.parameters)}
        case "regex":
            return {"type": "string", "pattern": f"^(?:{type.parameters[0]})$"}
    return None


def _hold_vllm(holding: Holding, chat: bool, heal: str) -> Held | None:
    if holding.json is not None:
        return Held({"structured_outputs": {"json": records_layout(holding)}})
    if holding.grammar is not None:
        return Held({"structured_outputs": {"grammar": holding.grammar}})
    pattern = re.escape(heal) + f"(?:{holding.pattern})"
    return Held({"structured_outputs": {"regex": pattern}}, spaced=True)


def _hold_sglang(holding: Holding, chat: bool, heal: str) -> Held | None:
    if holding.json is not None:
        return Held({"json_schema": json.dumps(records_layout(holding))})
    if holding.grammar is not None:
        return None
    return Held({"regex": re.escape(heal) + f"(?:{holding.pattern})"}, spaced=True)


def _hold_llama(holding: Holding, chat: bool, heal: str) -> Held | None:
    if holding.pattern is not None:
        return Held({"grammar": gbnf_of(holding.pattern, heal)}, spaced=True)
    if holding.json is not None:
        return Held({"json_schema": records_layout(holding)})
    return None


def _hold_llama_python(holding: Holding, chat: bool, heal: str) -> Held | None:
    if holding.pattern is not None:
        return Held({"grammar": gbnf_of(holding.pattern, heal)}, spaced=True)
    if holding.json is not None and chat:
        form = {"type": "json_object", "schema": records_layout(holding)}
        return Held({"response_format": form})
    return None


def _hold_not(holding: Holding, chat: bool, heal: str) -> Held | None:
    return None


_MORE = frozenset({"top_k", "min_p"})
_LLAMA = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai", _hold_openai, prefill=({}, _CONTINUE), usage=True),
        Dialect(
            "vllm", _hold_vllm, {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}, _MORE,
            (_CONTINUE,), True,
        ),
        Dialect(
            "sglang", _hold_sglang, {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}, _MORE,
            (_CONTINUE,), True,
        ),
        Dialect("llama.cpp", _hold_llama, _LLAMA, _MORE, ({}, _CONTINUE), True),
        Dialect(
            "llama-cpp-python", _hold_llama_python, _LLAMA, _MORE, tokenize="/extras/tokenize"
        ),
        Dialect("plain", _hold_not, prefill=({}, _CONTINUE)),
    )
}  # fmt: skip
"""By name; `plain` sends nothing but the API's oldest fields, and holds no gen to a type."""

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "me": "llama-cpp-python"}


def dialect_of(choice: str, owners: list[str]) -> Dialect:
    """Return the dialect that was asked for, or that the owner in a model list stands for."""
    if choice != "auto":
        return DIALECTS[choice]
    names = [_OWNERS[owner] for owner in owners if owner in _OWNERS]
    return DIALECTS[names[0] if names else "openai"]


def holding_of(
    type: Term,
    records: Mapping[str, Operation],
    constraint_of: Callable[[Term, Mapping[str, Operation]], tuple[str, str] | None],
    pattern_of: Callable[[Term, Mapping[str, Operation]], str],
) -> Holding | None:
    """Return what a gen of a type is held to; None where any text will do."""
    constraint = constraint_of(type, records)
    if constraint is None:
        return None
    kind, source = constraint
    if kind == "lark":
        return Holding(type, grammar=source)
    pattern = None if type.name == "schema" else pattern_of(type, records)
    return Holding(type, pattern, json.loads(source) if kind == "json" else None)
