"""Arguments of a program, from a call or from a row of data: complete, known, of their types."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ...ir import strict_json
from ...ir.core import Operation, Table, Term, thaw
from ...ir.diagnostics import RunError
from ...ir.types import written
from ...ir.values import portable_json
from .coerce import Mismatch, coerce


class BadArguments(RunError):
    """An argument or a field that is missing, unknown or of another type."""

    template = "{place}{problem}"


class Written(str):
    """A value as somebody wrote it: text, or JSON where the parameter is no text."""

    def read_as(self, type: Term) -> Any:
        """Return the value for a parameter of this type; the text itself where it is no JSON.

        Raises Mismatch for JSON that names a key twice, and for numbers of too many digits.
        """
        if type.name in TEXTS and not self.startswith('"'):
            return str(self)
        try:
            value = strict_json.loads(self)
        except (strict_json.Twice, strict_json.TooManyDigits) as error:
            raise Mismatch(str(error)) from None
        except (ValueError, RecursionError):  # not JSON, or nested without end
            return str(self)
        return value if type.name not in TEXTS or isinstance(value, str) else str(self)


_AS_JSON = {
    "bool": "it is written true or false",
    "list": """a list is written as JSON: '["a", "b"]'""",
    "record": """a record is written as JSON: '{"name": "a"}'""",
}

TEXTS = frozenset({"str", "choice", "regex", "grammar"})


def bind_arguments(
    function: Operation,
    records: Mapping[str, Operation],
    given: Mapping[str, Any],
    row: int | None = None,
) -> dict[str, Any]:
    """Return the values of all parameters in order; raises BadArguments.

    With `row`, the message speaks of that row's fields. Values may be `Written`.
    """
    what, place = ("argument", "") if row is None else ("field", f"row {row}: ")
    if not isinstance(given, Mapping):
        raise BadArguments(
            place=place, row=row, problem=f"{given!r} is no row: it has no named fields"
        )
    parameters: dict[str, Table] = {entry["name"]: entry for entry in function["parameters"]}
    for name in given:
        if name not in parameters:
            raise BadArguments(
                place=place, row=row, problem=f"there is no parameter for the {what} {name!r}",
                hint=_hint(str(name), list(parameters)),
            )  # fmt: skip
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        type: Term = parameter["type"]
        if name in given:
            value = given[name]
            try:
                if isinstance(value, Written):
                    value = value.read_as(type)
                values[name] = coerce(type, records, value)
            except Mismatch as error:
                hint = _AS_JSON.get(type.name, "") if isinstance(given[name], Written) else ""
                problem = f"the {what} {name!r}: {error}"
                raise BadArguments(place=place, row=row, problem=problem, hint=hint) from None
        elif _has_default(parameter):
            values[name] = thaw(parameter["default"])
        else:
            raise BadArguments(
                place=place, row=row, problem=f"the {what} {name!r} ({written(type)}) is missing",
                hint=_signature(parameters),
            )  # fmt: skip
    return values


def unnamed(function: Operation, values: tuple[Any, ...]) -> BadArguments:
    """Return the error of a call that gives values without names."""
    names = [entry["name"] for entry in function["parameters"]]
    if not names:
        hint = "the program takes none"
    elif isinstance(values[0], Mapping):
        hint = "a row is given as run(**row)"
    else:
        hint = f"write run({names[0]}=...)"
    return BadArguments(place="", problem="arguments go by name", hint=hint)


def _hint(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"the parameters are: {', '.join(known)}" if known else "the program takes none"


def _signature(parameters: Mapping[str, Table]) -> str:
    return "the program takes " + ", ".join(map(_declared, parameters.values()))


def _declared(parameter: Table) -> str:
    """Return how a parameter is declared: `n: int = 3`."""
    said = f"{parameter['name']}: {written(parameter['type'])}"
    if not _has_default(parameter):
        return said
    return f"{said} = {portable_json(thaw(parameter['default']))}"


def _has_default(parameter: Table) -> bool:
    return any(key == "default" for key, _ in parameter.items)
