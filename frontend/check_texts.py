"""Checks the characters of texts: what no tokenizer can encode is refused with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ..ir.diagnostics import WeftTypeError
from . import ast


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
