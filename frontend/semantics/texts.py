"""Checks the characters of texts: what no tokenizer can encode is refused with its place, and
braces that were to insert a value, and are text, are told."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import fields
from typing import Any

from ...ir.diagnostics import Warning, WeftTypeError
from .. import ast

_NAME_IN_BRACES = re.compile(r"\{\s*([^\W\d]\w*)\s*\}")


class HalfOfAPair(WeftTypeError):
    """A surrogate that stands alone."""

    template = "{half} is half of a pair, and no character"
    hint = "write the character itself, or in a .weft file both halves: \\ud83d\\ude00"


def check_texts(file: ast.File) -> None:
    """Raise HalfOfAPair at the innermost node whose text holds a lone surrogate."""
    for node, text in _texts(file):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise HalfOfAPair(half=ascii(text[error.start])[1:-1], span=node.span) from None


def warn_of_braces(text: ast.Text, bound: Container[str], warnings: list[Warning]) -> None:
    """Warn of each bound name in braces that are text, once: loops are checked more often."""
    for part in text.parts:
        for found in _NAME_IN_BRACES.finditer(part) if isinstance(part, str) else ():
            message = f"`{found[0]}` is text here: the value of `{found[1]}` is not inserted"
            hint = "single braces insert it (in Python those of an f-string)"
            warning = Warning(message, text.span, hint)
            if found[1] in bound and warning not in warnings:
                warnings.append(warning)


def _texts(file: ast.File) -> Iterator[tuple[ast.Node, str]]:
    """Yield a file's strings with the nodes that hold them; without recursion: sums are deep."""
    waiting: list[tuple[ast.Node, Any]] = [(file, file)]
    while waiting:
        node, value = waiting.pop()
        if isinstance(value, str):
            yield node, value
        elif isinstance(value, tuple):
            waiting += [(node, one) for one in reversed(value)]
        elif isinstance(value, ast.Node):
            names = [one.name for one in fields(value) if one.name not in {"span", "source"}]
            waiting += [(value, getattr(value, name)) for name in reversed(names)]
