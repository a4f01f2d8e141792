"""Values of options: of what kind they are, how text becomes one, and what refuses a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any

from .ir.diagnostics import WeftError

WANTED = {bool: "yes or no", int: "a whole number", float: "a number"}


class BadOption(WeftError):
    """An option that is unknown or has an impossible value."""

    kind = "option error"
    template = "{problem}"


def check_group(group: str, options: Any) -> None:
    """Raise BadOption for a value of another kind than a group's option."""
    for item in fields(options):
        name, value = f"{group}_{item.name}", getattr(options, item.name)
        if isinstance(item.default, int | float):
            require_number(name, value, type(item.default))
        elif isinstance(item.default, str) and not isinstance(value, str):
            found = repr(value) if item.repr else type(value).__name__  # a key is never shown
            raise BadOption(problem=f"{name} is a text, not {found}")


def require_number(name: str, value: Any, kind: type) -> None:
    """Raise BadOption for a value of another kind than an option's: yes or no, or a number."""
    fits = {bool: value in (False, True), int: isinstance(value, Integral), float: True}[kind]
    if not isinstance(value, Real) or not fits or (kind is not bool and isinstance(value, bool)):
        wants = WANTED[kind]
        known: dict[str, Any] = {"problem": f"{name} is {wants}, not {value!r}"}
        if name.endswith("memory"):
            known["hint"] = "sizes are in bytes here: 1 << 30"
        raise BadOption(**known)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise BadOption for a value that is none of some choices."""
    if value not in choices:
        known = ", ".join(filter(None, choices))
        or_empty = ", or left out" if "" in choices else ""
        raise BadOption(problem=f"{name} must be one of {known}{or_empty}, not {value!r}")


def parsed(group: str, kind: type, texts: Mapping[str, str], hidden: set[str]) -> dict[str, Any]:
    """Return a group's options read from text, under the names that `changed` takes."""
    types = {item.name: type(item.default) for item in fields(kind) if item.name not in hidden}
    found: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in types:
            hint = f"write NAME=VALUE; the names are: {', '.join(sorted(types))}"
            raise BadOption(problem=f"there is no {group} option {name!r}", hint=hint)
        if not text:
            hint = f"write --{group} NAME=VALUE, or leave it out"
            raise BadOption(problem=f"{group}_{name} has no value", hint=hint)
        found[f"{group}_{name}"] = read(f"{group}_{name}", types[name], text)
    return found


def read(name: str, type: type, text: str) -> Any:
    """Return the value of a type that a text stands for."""
    if type is bool:
        if text.lower() not in {"yes", "no", "true", "false", "1", "0"}:
            raise BadOption(problem=f"{name} is yes or no, not {text!r}")
        return text.lower() in {"yes", "true", "1"}
    try:
        return type(text)
    except ValueError:
        raise BadOption(problem=f"{name} is {WANTED[type]}, not {text!r}") from None
