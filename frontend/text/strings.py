"""String literals: escapes, doubled braces, and `{expression}` interpolation with right spans."""

from __future__ import annotations

import re
from collections.abc import Callable

from ...ir.diagnostics import WeftSyntaxError
from ...ir.source import Source, Span
from ..ast import Expression

Origin = tuple[int, int]
"""A line and a column, both from 1: where a stretch of text begins in its source."""

ParseExpression = Callable[[str, Origin], Expression]

_SIMPLE_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", '"': '"', "'": "'", "\n": "",
}  # fmt: skip
_PIECE = re.compile(
    r"""(?P<escape>\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\s\S]))"""
    r"""|(?P<brace>\{\{|\}\})|(?P<hole>\{[^{}\n]*\})|(?P<stray>[{}])|(?P<plain>[^\\{}]+)"""
)
_STRING = re.compile(r'"(?:\\.|[^"\\])*"' + r"|'(?:\\.|[^'\\])*'")
_HALF = re.compile("[\ud800-\udfff]")


class UnknownEscape(WeftSyntaxError):
    """A backslash before a character that it gives no meaning."""

    template = "{escape} is no escape"
    hint = r"the escapes are \n \t \r \0 \\ \" \x41 \u00e9; write \\ for a backslash"


class StrayBrace(WeftSyntaxError):
    """A brace that neither opens nor closes an interpolation."""

    template = "a single {brace} in a string"
    hint = "write {{expression}} on one line to insert a value, or double the brace for the brace"


class EmptyInterpolation(WeftSyntaxError):
    """`{}` with nothing in it."""

    template = "there is no expression between the braces"
    hint = "write {{{{}}}} for the two braces themselves"


class CommentInBraces(WeftSyntaxError):
    """A `#` in an interpolation, outside the strings there."""

    template = "a `#` in braces would begin a comment, which hides what follows"
    hint = 'write it outside the braces: "#{{number}}"'


class PlainStringWanted(WeftSyntaxError):
    """An interpolation where the text must be known before the program runs."""

    template = "{what} must be known before the program runs: no interpolation here"
    hint = "double the braces if you mean the characters"


def unquote(token: str) -> tuple[str, int]:
    """Return a string token's inside, as written, and the width of its quotes."""
    width = 3 if token.startswith('"""') else 1
    return token[width:-width], width


def read_parts(
    token: str, origin: Origin, source: Source, parse_expression: ParseExpression
) -> tuple[str | Expression, ...]:
    """Return the parts of a string token: text with escapes resolved, and expressions."""
    body, width = unquote(token)
    parts: list[str | Expression] = []
    for match in _PIECE.finditer(body):
        place = advance(origin, token[: width + match.start()])
        piece, span = match.group(), span_at(source, place, match.group())
        if match.lastgroup == "hole":
            parts.append(_hole(piece, place, span, source, parse_expression))
            continue
        text = _text(match.lastgroup or "", piece, span, source)
        if parts and isinstance(parts[-1], str):
            parts[-1] += text
        elif text:
            parts.append(text)
    return tuple(_paired(part) if isinstance(part, str) else part for part in parts)


def _paired(text: str) -> str:
    """Return a text whose surrogate pairs, as JSON escapes them, are the characters they mean."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def advance(origin: Origin, text: str) -> Origin:
    """Return the place after `text` that begins at `origin`."""
    line, column = origin
    newlines = text.count("\n")
    if newlines:
        return line + newlines, len(text) - text.rfind("\n")
    return line, column + len(text)


def span_at(source: Source, place: Origin, text: str) -> Span:
    """Return the span of `text` that begins at `place`."""
    end_line, end_column = advance(place, text)
    return Span(source.name, *place, end_line, end_column)


def _hole(
    piece: str, place: Origin, span: Span, source: Source, parse_expression: ParseExpression
) -> Expression:
    if not piece[1:-1].strip():
        raise EmptyInterpolation(span=span, source=source)
    if "#" in _STRING.sub("", piece):
        raise CommentInBraces(span=span, source=source)
    return parse_expression(piece[1:-1], (place[0], place[1] + 1))


def _text(kind: str, piece: str, span: Span, source: Source) -> str:
    if kind == "plain":
        return piece
    if kind == "brace":
        return piece[0]
    if kind == "stray":
        raise StrayBrace(brace=piece, span=span, source=source)
    if piece[1] in "ux" and len(piece) > 2:
        return chr(int(piece[2:], 16))
    if piece[1] not in _SIMPLE_ESCAPES:
        raise UnknownEscape(escape=piece, span=span, source=source)
    return _SIMPLE_ESCAPES[piece[1]]
