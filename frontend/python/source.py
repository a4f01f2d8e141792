"""Finds the source of Python functions and classes, and the spans of Python syntax in it."""

from __future__ import annotations

import ast as python
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from ...ir.diagnostics import WeftSyntaxError
from ...ir.source import Source, Span
from ..text.syntax_errors import TooDeep

FunctionSyntax = python.FunctionDef | python.AsyncFunctionDef


class NoSource(WeftSyntaxError):
    """A function whose source cannot be found."""

    template = "the source of `{name}` cannot be found"
    hint = "define it in a file or a notebook cell, under no other decorator: it is read, never run"


DEEPEST = 300
"""Expressions inside one another: what comes after the reader follows them by recursion."""
DEEP_HINT = "give a part a name of its own, or build long sums and lists in a loop"


class NotInPython(WeftSyntaxError):
    """Python that has no meaning in a program."""

    template = "{what} is not part of weft's Python"


def read_source(filename: str) -> Source:
    """Return the text of a Python file or notebook cell; its name is relative where it can be."""
    path = Path(filename)
    try:
        name = str(path.relative_to(Path.cwd()))
    except ValueError:
        name = filename
    return Source(name, "".join(linecache.getlines(filename)))


def function_syntax(function: Callable[..., Any], source: Source) -> FunctionSyntax:
    """Return the syntax of a function, async or not, which stands in `source`."""
    first = function.__code__.co_firstlineno
    return _find(FunctionSyntax, function.__name__, first, source)


def refuse_too_deep(function: FunctionSyntax, source: Source) -> None:
    """Raise TooDeep for an expression of a function that stands in more others than are read."""
    waiting: list[tuple[python.AST, int]] = [(function, 0)]
    while waiting:
        node, inside = waiting.pop()
        if isinstance(node, python.expr):
            inside += 1
            if inside > DEEPEST:
                raise TooDeep(hint=DEEP_HINT, span=span_of(node, source))
        waiting += [(child, inside) for child in python.iter_child_nodes(node)]


def class_syntax(cls: type, near: Source) -> tuple[python.ClassDef, Source]:
    """Return the syntax of a class, and its source: its file, `near`, or a notebook's cells."""
    try:
        source = read_source(inspect.getsourcefile(cls) or "")
        first = inspect.getsourcelines(cls)[1]
        return _find(python.ClassDef, cls.__name__, first, source), source
    except (OSError, TypeError, KeyError, NoSource):
        pass  # KeyError: tvm, once imported, replaces part of inspect
    for source in (near, *map(read_source, reversed(list(linecache.cache)))):
        if f"class {cls.__name__}" not in source.text:
            continue
        for node in python.walk(python.parse(source.text)):
            if isinstance(node, python.ClassDef) and node.name == cls.__name__:
                return node, source
    raise NoSource(name=cls.__name__)


def _find(kind: Any, name: str, first: int, source: Source) -> Any:
    tree = python.parse(source.text)
    for node in python.walk(tree):
        found: Any = node
        if isinstance(node, kind) and found.name == name:
            lines = [found.lineno, *(item.lineno for item in found.decorator_list)]
            if min(lines) == first:
                return found
    raise NoSource(name=name)


def namespace_of(thing: Callable[..., Any] | type) -> Mapping[str, Any]:
    """Return what names mean at a function or a class: its module, closure and annotations."""
    module = sys.modules.get(thing.__module__)
    names: dict[str, Any] = dict(vars(module)) if module else {}
    if inspect.isfunction(thing):
        names |= thing.__globals__
    for annotation in getattr(thing, "__annotations__", {}).values():
        names |= {cls.__name__: cls for cls in _classes(annotation)}
    if inspect.isfunction(thing):
        names |= inspect.getclosurevars(thing).nonlocals
    return names


def _classes(annotation: Any) -> list[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [cls for item in get_args(annotation) for cls in _classes(item)]


def span_of(node: python.AST, source: Source) -> Span:
    """Return where a piece of Python stands; columns count characters, as everywhere in weft."""
    line, end_line = node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]
    column = _character(source.line(line), node.col_offset)  # type: ignore[attr-defined]
    end_column = _character(source.line(end_line), node.end_col_offset or 0)  # type: ignore[attr-defined]
    return Span(source.name, line, column, end_line, end_column)


def _character(line: str, byte: int) -> int:
    return len(line.encode()[:byte].decode(errors="ignore")) + 1
