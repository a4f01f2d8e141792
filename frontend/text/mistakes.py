"""Finds which named mistake a text makes, by examples of each mistake."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import Any

from lark import Lark, UnexpectedCharacters, UnexpectedInput

from ...ir.diagnostics import Note, WeftSyntaxError
from ...ir.source import Source, Span
from .brackets import PARTNER, never_closed, opened_at
from .foreign_syntax import foreign
from .mistake_examples import EXAMPLES
from .strings import Origin, advance
from .syntax_errors import (
    MalformedInterpolation,
    MalformedLet,
    ReservedWord,
    StrangeCharacter,
    UnclosedBracket,
    UnclosedString,
    UnexpectedText,
    UnknownStatement,
    UnopenedBracket,
)


def explain(
    error: UnexpectedInput, text: str, start: str, source: Source, origin: Origin, parser: Lark
) -> WeftSyntaxError:
    """Return the named error of what lark could not read."""
    span = _span(error, text, source, origin)
    if isinstance(error, UnexpectedCharacters):
        return _unexpected_character(error, text, span, source)
    token = error.token  # type: ignore[attr-defined]
    known = foreign(error, text, span, source)
    known = known or _of_brackets(error, text, span, source, origin)
    if known is not None:
        return known
    kind = MalformedInterpolation if start == "expression" else _named(error, parser)
    if kind is MalformedLet and (unknown := _unknown_statement(span, source)):
        return unknown
    if _stands_for_a_name(error, text):
        return ReservedWord(word=str(token), span=span, source=source)
    return kind(found=_found(token.type, str(token)), span=span, source=source)


def _of_brackets(
    error: UnexpectedInput, text: str, span: Span, source: Source, origin: Origin
) -> WeftSyntaxError | None:
    """Return the error of a bracket without partner, by which what is right cannot be read."""
    token = error.token  # type: ignore[attr-defined]
    position = len(text) if token.type == "$END" else error.pos_in_stream or 0
    if str(token) in PARTNER.values():
        opening = opened_at(text, position)
        if opening is not None and PARTNER[text[opening]] == str(token):
            return None
        known: dict[str, Any] = {"problem": "closes no bracket"}
        if opening is not None:
            note = Note("it is open since here", _place(text, opening, source, origin))
            known = {"problem": f"cannot close `{text[opening]}`", "notes": (note,)}
        return UnopenedBracket(bracket=str(token), span=span, source=source, **known)
    opening = never_closed(text, position)
    if opening is None:
        return None
    bracket, place = text[opening], _place(text, opening, source, origin)
    inside = span.line > place.line and token.type != "$END"
    notes = (Note("this still stands inside it", span),) if inside else ()
    return UnclosedBracket(
        bracket=bracket, partner=PARTNER[bracket], span=place, notes=notes, source=source
    )


def _place(text: str, position: int, source: Source, origin: Origin) -> Span:
    line, column = advance(origin, text[:position])
    return Span(source.name, line, column, line, column + 1)


_BESIDE_A_NAME = {"NAME", "RPAR", "LONG_STRING", "_NL"}
"""What may follow where a name is declared; where more may, an expression or a statement begins."""


def _stands_for_a_name(error: UnexpectedInput, text: str) -> bool:
    """Return whether a keyword stands where little but a name, not that of a type, is expected."""
    token, expected = error.token, set(error.expected)  # type: ignore[attr-defined]
    wanted = "NAME" in expected and expected <= _BESIDE_A_NAME
    of_a_type = text[: error.pos_in_stream].rstrip(" ").endswith((":", "->", "["))
    return wanted and not of_a_type and token.type != "NAME" and str(token).isidentifier()


STATEMENTS = (
    "system", "user", "assistant", "gen", "select", "fork", "yield", "for", "while", "if", "match",
    "let", "call", "inline", "score", "join", "with", "return",
)  # fmt: skip


def _unknown_statement(span: Span, source: Source) -> UnknownStatement | None:
    """Return the error of a line such as `usr "hi"`: a word, no `=`, and it is no statement."""
    line = source.line(span.line)
    first = re.match(r"\s*(\w+)\s+[A-Za-z_\"]", line)
    if first is None or first[1] in STATEMENTS:
        return None
    column = first.start(1) + 1
    place = Span(source.name, span.line, column, span.line, column + len(first[1]))
    near = get_close_matches(first[1], STATEMENTS, 1)
    known: dict[str, Any] = {"word": first[1], "words": ", ".join(STATEMENTS)}
    if near:
        known["hint"] = f"did you mean `{near[0]}`?"
    return UnknownStatement(span=place, source=source, **known)


_DEPTH = 3
"""How many of the parser's last states tell mistakes apart."""


def _named(error: UnexpectedInput, parser: Lark) -> type[WeftSyntaxError]:
    """Return the class whose example fails most alike: in the same last states, at the same token.

    lark's own `match_examples` compares one state and the depth of the stack; a mistake inside
    a block would need an example for each depth, and what ends in a number would be one mistake.
    """
    failures = _failures(parser)
    found = (failures.get(key) for key in _keys(error))
    return next((kind for kind in found if kind is not None), UnexpectedText)


def _keys(error: UnexpectedInput) -> list[tuple[object, ...]]:
    """Return what describes a failure, from the closest description to the loosest."""
    stack = error.state.state_stack  # type: ignore[attr-defined]
    token = error.token.type  # type: ignore[attr-defined]
    keys: list[tuple[object, ...]] = []
    for depth in range(_DEPTH, 0, -1):
        keys += [(*stack[-depth:], token), tuple(stack[-depth:])]
    return keys


@cache
def _failures(parser: Lark) -> dict[tuple[object, ...], type[WeftSyntaxError]]:
    """Return how each example fails; where two fail alike, the first names the mistake."""
    failures: dict[tuple[object, ...], type[WeftSyntaxError]] = {}
    for kind, texts in EXAMPLES.items():
        for text in texts:
            try:
                parser.parse(text, start="file")
            except UnexpectedInput as error:
                for key in _keys(error):
                    failures.setdefault(key, kind)
    return failures


def _span(error: UnexpectedInput, text: str, source: Source, origin: Origin) -> Span:
    line, column = error.line, error.column
    token = getattr(error, "token", None)
    width = len(token) if token and "\n" not in token else 1
    if token is not None and token.type == "_INDENT":
        line, column, width = token.end_line or 1, 1, max(1, len(token))
    elif token is not None and token.type in {"_NL", "$END", "_DEDENT"} or line < 1:
        line, column = _end_of_line_before(error, text)
    shift = origin[1] - 1 if line == 1 else 0
    place = (line + origin[0] - 1, column + shift)
    return Span(source.name, *place, place[0], place[1] + width)


def _end_of_line_before(error: UnexpectedInput, text: str) -> tuple[int, int]:
    """Return the place just after the last text before a line's or the text's end."""
    position = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    before = text[:position].rstrip()
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _found(kind: str, text: str) -> str:
    if kind in {"_NL", "$END", "_DEDENT"}:
        return "the end of the line"
    if kind == "_INDENT":
        return "an indented line"
    return f"`{text}`"


def _unexpected_character(
    error: UnexpectedCharacters, text: str, span: Span, source: Source
) -> WeftSyntaxError:
    rest = text[error.pos_in_stream or 0 :]
    if rest[:1] in {'"', "'"}:
        return UnclosedString(span=span, source=source)
    hints = (hint for characters, hint in _FOREIGN.items() if rest[:1] in characters)
    letter = _LETTERS if rest[:1].isalpha() else None
    known: dict[str, Any] = {"hint": hint} if (hint := next(hints, letter)) else {}
    return StrangeCharacter(found=repr(rest[:1]), span=span, source=source, **known)


_FOREIGN = {
    "“”„«»‘’`": "strings take straight quotes: \"...\" or '...'",
    "{};": "a block is what is indented below a colon, and a statement ends with its line; "
    "a record's value is NAME(field=value)",
    "\u00a0\u2007\u202f\u3000": "this looks like a space and is none: type it anew",
    "，；：（）［］＝": "this is the wide form of a character: type the plain one",
    "!&": "conditions are joined by and, or and not",
}
"""What is meant by characters of other languages."""

_LETTERS = "names are of the letters a to z, digits and _; what a model reads stands in quotes"
