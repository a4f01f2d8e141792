"""The types of values: what a program's values are, and what tensors, tiles and buffers are."""

from __future__ import annotations

import json

from .core import Term

STREAM = Term("stream")
KV = Term("kv")
TOKENS = Term("tokens")
STR = Term("str")
INT = Term("int")
FLOAT = Term("float")
BOOL = Term("bool")
NONE = Term("none")
ANY = Term("any")
INDEX = Term("index")

DTYPE_BYTES = {
    "f64": 8, "f32": 4, "bf16": 2, "f16": 2, "f8e4m3": 1, "i64": 8, "i32": 4, "u32": 4,
    "i16": 2, "u16": 2, "i8": 1, "u8": 1, "bool": 1,
}  # fmt: skip

DTYPE_NAMES = {
    "f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16",
    "f8e4m3": "float8_e4m3fn", "i64": "int64", "i32": "int32", "u32": "uint32", "i16": "int16",
    "u16": "uint16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip
"""What torch and TVM call them."""


ERROR = Term("error")
"""What a tool that failed gives: fields tool, kind and message."""

SELECTION = Term("selection")
"""A str that a select chose; it knows the options' probabilities."""

GENERATED = Term("generated")
"""A str that a gen made; it knows the log-probabilities of its tokens."""


SCALED = frozenset({"i8", "f8e4m3"})
"""Formats of weights that have one f32 scale a row."""


def result_of(type: Term) -> Term:
    """Return `result<type>`: a value of the type, or the error of the tool that should give it."""
    return Term("result", (type,))


def list_of(element: Term) -> Term:
    """Return `list<element>`."""
    return Term("list", (element,))


def base(type: Term) -> Term:
    """Return a type without its constraint: a choice is a str, an int range is an int."""
    if type.name in {"choice", "regex", "grammar", "selection", "generated"}:
        return STR
    if type.name == "schema":
        return ANY
    if type.name == "result":
        return result_of(base(outcome(type)))
    if type.name == "int":
        return INT
    if type.name == "list":
        return list_of(base(element(type)))
    return type


def meet(one: Term, other: Term) -> bool:
    """Say whether some value is of both types: constraints and what is known besides do not count,
    a whole number is a float, and what may be an error may be none."""
    one, other = base(outcome(one)), base(outcome(other))
    if one.name == other.name == "list":
        return meet(element(one), element(other))
    return one == other or ANY in (one, other) or {one, other} == {INT, FLOAT}


def outcome(type: Term) -> Term:
    """Return the type of the value that a result holds where it is no error."""
    inner = type.parameters[0] if type.name == "result" else type
    assert isinstance(inner, Term)
    return inner


def element(type: Term) -> Term:
    """Return a list type's element type."""
    parameter = type.parameters[0] if type.parameters else ANY
    return parameter if isinstance(parameter, Term) else ANY


def record(name: str) -> Term:
    """Return `record<Name>`, the type that a `program.record` operation declares."""
    return Term("record", (Term(name),))


def int_range(low: int, high: int) -> Term:
    """Return `int<low, high>`, both ends included."""
    return Term("int", (low, high))


def choice(*options: str) -> Term:
    """Return `choice<...>`: one of these strings."""
    return Term("choice", options)


def regex(pattern: str) -> Term:
    """Return `regex<pattern>`: a string that matches the whole pattern."""
    return Term("regex", (pattern,))


_SHOWN = 8
"""Options of a choice that a message shows."""


def written(type: Term) -> str:
    """Return how a program writes a type: `int(1..9)`, where the IR has `int<1, 9>`.

    What has no name in the language reads as what it is used as.
    """
    inner = [item for item in type.parameters if isinstance(item, Term)]
    match type.name, type.parameters:
        case (("selection" | "generated"), _):
            return "str"
        case "int", (low, high):
            return f"int({low}..{high})"
        case "list", (_, most):
            return f"list[{written(inner[0])}](max_items={most})"
        case "list", (_,):
            return f"list[{written(inner[0])}]"
        case "record", _:
            return inner[0].name
        case "choice", options:
            shown = [json.dumps(option, ensure_ascii=False) for option in options[:_SHOWN]]
            return f"choice[{', '.join([*shown, *['...'] * (len(options) > _SHOWN)])}]"
        case "regex", (pattern,):
            return f'regex "{pattern}"'
        case "result", _:
            return f"{written(inner[0])} or an error"
        case "map", _:
            return "the probabilities of a select"
    return type.name


Dim = int | Term
"""A dimension: a number, or a symbol such as `T`."""


def tensor(dtype: str, *shape: Dim | str) -> Term:
    """Return `tensor<dtype, [dims]>` of the graph dialect; a string is a symbolic dimension."""
    return Term("tensor", (Term(dtype), _dims(shape)))


def tile(dtype: str, *shape: int) -> Term:
    """Return `tile<dtype, [dims]>` of the tile dialect; every dimension is a number."""
    return Term("tile", (Term(dtype), tuple(shape)))


def buffer(dtype: str, *shape: Dim | str) -> Term:
    """Return `buffer<dtype, [dims]>`: memory that a kernel reads or writes."""
    return Term("buffer", (Term(dtype), _dims(shape)))


def dtype_of(type: Term) -> str:
    """Return the element type's name of a tensor, tile, buffer or scalar type."""
    return type.parameters[0].name if type.name in {"tensor", "tile", "buffer"} else type.name  # type: ignore[union-attr]


def shape_of(type: Term) -> tuple[Dim, ...]:
    """Return the dimensions of a tensor, tile or buffer type; a scalar has none."""
    return type.parameters[1] if type.name in {"tensor", "tile", "buffer"} else ()  # type: ignore[return-value]


def _dims(shape: tuple[Dim | str, ...]) -> tuple[Dim, ...]:
    return tuple(Term(dim) if isinstance(dim, str) else dim for dim in shape)
