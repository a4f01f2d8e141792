"""A regular expression as a GBNF grammar: the form in which llama.cpp takes constraints."""

from __future__ import annotations

import re
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from ...ir.diagnostics import RunError

LARGEST_REPEAT = 2000
"""The most repetitions that llama.cpp takes in one rule."""


class NoGrammar(RunError):
    """A pattern with something that GBNF cannot say."""

    template = "the pattern {pattern!r} cannot be written for this endpoint: {problem}"
    hint = "use only characters, classes, groups, alternatives and repetitions"


def gbnf_of(pattern: str, before: str = "") -> str:
    """Return the grammar of texts that match the whole pattern, after the text `before`."""
    try:
        body = _sequence(list(parser.parse(pattern)), pattern)
    except re.error as error:
        raise NoGrammar(pattern=pattern, problem=str(error)) from None
    return f"root ::= {_literal(before) + ' ' if before else ''}{body}"


def _sequence(items: list[Any], pattern: str) -> str:
    return " ".join(_item(kind, value, pattern) for kind, value in items) or '""'


def _item(kind: Any, value: Any, pattern: str) -> str:
    if kind is kinds.LITERAL:
        return _literal(chr(value))
    if kind is kinds.NOT_LITERAL:
        return f"[^{_in_class(value)}]"
    if kind is kinds.ANY:
        return "[^\\x0a]"
    if kind is kinds.IN:
        return _class(value, pattern)
    if kind is kinds.BRANCH:
        return "(" + " | ".join(_sequence(list(branch), pattern) for branch in value[1]) + ")"
    if kind is kinds.SUBPATTERN and not value[1] and not value[2]:
        return "(" + _sequence(list(value[-1]), pattern) + ")"
    if kind in {kinds.MAX_REPEAT, kinds.MIN_REPEAT}:
        return _repeat(value, pattern)
    raise NoGrammar(pattern=pattern, problem=f"it has a {str(kind).lower()}")


def _repeat(value: Any, pattern: str) -> str:
    low, high, inner = value
    body = f"({_sequence(list(inner), pattern)})"
    if (low if high is kinds.MAXREPEAT else high) > LARGEST_REPEAT:
        raise NoGrammar(pattern=pattern, problem=f"it repeats more than {LARGEST_REPEAT} times")
    if high is kinds.MAXREPEAT:
        return body + {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return body + f"{{{low},{high}}}"


def _class(parts: list[Any], pattern: str) -> str:
    negated = parts[0][0] is kinds.NEGATE
    body = "".join(_part(kind, value, pattern) for kind, value in parts[int(negated) :])
    return f"[{'^' if negated else ''}{body}]"


_CATEGORIES = {
    kinds.CATEGORY_DIGIT: "0-9",
    kinds.CATEGORY_WORD: "a-zA-Z0-9_",
    kinds.CATEGORY_SPACE: "\\x20\\x09\\x0a\\x0d",
}


def _part(kind: Any, value: Any, pattern: str) -> str:
    if kind is kinds.LITERAL:
        return _in_class(value)
    if kind is kinds.RANGE:
        return f"{_in_class(value[0])}-{_in_class(value[1])}"
    if kind is kinds.CATEGORY and value in _CATEGORIES:
        return _CATEGORIES[value]
    if kind is kinds.CATEGORY and value is kinds.CATEGORY_NOT_SPACE:
        return "\\x21-\\U0010ffff"
    raise NoGrammar(pattern=pattern, problem=f"a class has a {str(value).lower()}")


def _in_class(code: int) -> str:
    """Return a character as it stands inside of brackets."""
    if code < 0x30 or chr(code) in "[]^\\-" or code == 0x7F:
        return f"\\x{code:02x}"
    return chr(code)


def _literal(text: str) -> str:
    return '"' + "".join(_quoted(char) for char in text) + '"'


def _quoted(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\x{ord(char):02x}" if ord(char) < 0x20 or ord(char) == 0x7F else char
