"""Policies as text for people and as JSON for tools; each form reads back what it wrote.

    weft policy 1
    batch = 1920
    micro_batch = 32
    ...
    layers 0-15 = r2 s12 c2

A placement is written in runs of pages: two resident, then twelve streamed, then two on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any

from .json_text import value_of
from .placement import Placement, PolicyError
from .policy import Policy

HEADER = "weft policy 1"
FORMAT = 1

_SCALARS: dict[str, type] = {
    "batch": int, "micro_batch": int, "attention": str, "experts": int, "pages_per_expert": int,
    "ring": int, "lead": int, "kv_gpu": float, "schedule": str, "page_format": str,
    "prefill_tokens": int, "overlap": bool,
}  # fmt: skip
_REQUIRED = frozenset(("batch", "micro_batch", "attention", "experts", "pages_per_expert", "ring"))


def dumps(policy: Policy) -> str:
    """Return the text form; layers of equal placement share a line."""
    lines = [HEADER, *(f"{name} = {value}" for name, value in _scalars(policy).items())]
    return (
        "\n".join([*lines, *(f"layers {span} = {runs}" for span, runs in _layers(policy))]) + "\n"
    )


def _scalars(policy: Policy) -> dict[str, Any]:
    """Return the fields beside layers; of overlap only that it is wanted."""
    found = {name: getattr(policy, name) for name in _SCALARS}
    if not policy.overlap:
        del found["overlap"]
    return found


def loads(text: str) -> Policy:
    """Return the policy that a text gives; raises PolicyError with the line."""
    lines = [
        (f"line {number}", line.split("#")[0].strip())
        for number, line in enumerate(text.splitlines(), 1)
    ]
    lines = [(where, line) for where, line in lines if line]
    if not lines or lines[0][1] != HEADER:
        where = lines[0][0] if lines else "line 1"
        raise PolicyError(where=where, problem=f"a policy starts with the line {HEADER!r}")
    values: dict[str, Any] = {}
    layers: dict[int, Placement] = {}
    for where, line in lines[1:]:
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            raise PolicyError(where=where, problem=f"expected `name = value`, found {line!r}")
        if name.startswith("layers"):
            _read_layers(where, name.removeprefix("layers").strip(), value, layers)
        else:
            _put(where, name, value, values)
    return _policy(values, layers)


def to_json(policy: Policy) -> dict[str, Any]:
    """Return the policy as a JSON object; placements are runs, by spans of layers."""
    return {"format": FORMAT, **_scalars(policy), "layers": dict(_layers(policy))}


def from_json(value: Any) -> Policy:
    """Return the policy of a JSON object; raises PolicyError with the key."""
    if not isinstance(value, Mapping):
        raise PolicyError(where="top", problem=f"expected a table, found {value!r:.60}")
    if value.get("format") != FORMAT:
        problem = f"this weft reads format {FORMAT} only, not {value.get('format')!r}"
        raise PolicyError(where="format", problem=problem)
    values: dict[str, Any] = {}
    layers: dict[int, Placement] = {}
    spans = value.get("layers", {})
    if not isinstance(spans, Mapping):
        raise PolicyError(where="layers", problem=f"expected a table, found {spans!r:.60}")
    for span, runs in spans.items():
        _read_layers(f"layers {span}", str(span), str(runs), layers)
    for name, each in value.items():
        if name not in ("format", "layers"):
            _put(name, name, each, values)
    return _policy(values, layers)


def parse(text: str) -> Policy:
    """Return the policy of a file's content in either form."""
    if not text.lstrip().startswith("{"):
        return loads(text)

    def refused(where: str, problem: str) -> PolicyError:
        return PolicyError(where=where, problem=problem)

    return from_json(value_of(text, refused))


def runs_of(placement: Placement) -> str:
    """Return a placement in runs: `r2 s12 c2`."""
    return " ".join(f"{letter}{len(list(run))}" for letter, run in groupby(placement.homes))


def placement_of(runs: str, where: str = "placement") -> Placement:
    """Return the placement that runs give; raises PolicyError."""
    homes = []
    for run in runs.split():
        found = re.fullmatch(r"([a-z])(\d{1,7})", run)
        if found is None:
            raise PolicyError(
                where=where, problem=f"expected a run such as s12, found {run!r}",
                hint="a run is a home's letter (r, s, c, d) and how many pages have it",
            )  # fmt: skip
        homes.append(found[1] * int(found[2]))
    try:
        return Placement("".join(homes))
    except PolicyError as error:
        raise PolicyError(**{**error.fields, "where": where}) from None


def _layers(policy: Policy) -> list[tuple[str, str]]:
    spans: list[tuple[str, str]] = []
    for placement, run in groupby(enumerate(policy.layers), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        spans.append((span, runs_of(placement)))
    return spans


def _read_layers(where: str, span: str, runs: str, layers: dict[int, Placement]) -> None:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", span)
    if found is None:
        raise PolicyError(where=where, problem=f"expected layers such as 0-15, found {span!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise PolicyError(where=where, problem=f"the layers of {span} end before they begin")
    placement = placement_of(runs, where)
    for number in range(first, last + 1):
        if number in layers:
            raise PolicyError(where=where, problem=f"layer {number} is placed twice")
        layers[number] = placement


def _yes_or_no(text: str) -> bool:
    if text not in {"True", "False"}:
        raise ValueError(text)
    return text == "True"


_READ: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _yes_or_no}


def _put(where: str, name: str, value: Any, values: dict[str, Any]) -> None:
    kind = _SCALARS.get(name)
    if kind is None:
        raise PolicyError(
            where=where, problem=f"a policy has no field {name!r}",
            hint=f"fields: {', '.join(_SCALARS)}, layers",
        )  # fmt: skip
    if name in values:
        raise PolicyError(where=where, problem=f"{name} is given twice")
    if isinstance(value, str):
        try:
            value = _READ[kind](value)
        except ValueError:
            raise _no(where, kind, value) from None
    types = (int, float) if kind is float else kind
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, types):
        raise _no(where, kind, value)
    values[name] = value


def _no(where: str, kind: type, value: Any) -> PolicyError:
    names = {int: "a whole number", float: "a number", str: "a name", bool: "True or False"}
    return PolicyError(where=where, problem=f"expected {names[kind]}, found {value!r}")


def _policy(values: dict[str, Any], layers: dict[int, Placement]) -> Policy:
    missing = [each.name for each in fields(Policy) if each.name in _REQUIRED - set(values)]
    if missing:
        raise PolicyError(where="end", problem=f"missing: {', '.join(missing)}")
    gap = next((number for number in range(len(layers)) if number not in layers), None)
    if gap is not None:
        raise PolicyError(where="layers", problem=f"layer {gap} is not placed")
    ordered = tuple(layers[number] for number in range(len(layers)))
    return Policy(**values, layers=ordered)
