"""Tools: Python functions that programs call, with the declaration read from their source."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from .. import ast
from .source import function_syntax, namespace_of, read_source, span_of
from .types import TypeReader


class Tool:
    """A host function that programs may call; calling it runs the function."""

    def __init__(
        self, function: Callable[..., Any], timeout: float | None = None, pure: bool = False
    ) -> None:
        self.function = function
        self.timeout = None if timeout is None else float(timeout)
        self.pure = pure
        self.name = function.__name__
        update_wrapper(self, function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the function."""
        return self.function(*arguments, **named)

    def declaration(self, records: dict[str, ast.Record]) -> ast.Tool:
        """Return the tool's declaration; `records` gains the dataclasses that it names."""
        source = read_source(self.function.__code__.co_filename)
        syntax = function_syntax(self.function, source)
        reader = TypeReader(namespace_of(self.function), source, records)
        given = syntax.args
        parameters = reader.parameters([*given.posonlyargs, *given.args], given.defaults)
        returns = reader.returns(syntax.returns)
        span = span_of(syntax, source)
        return ast.Tool(self.name, parameters, returns, self.timeout, self.pure, span=span)

    def __repr__(self) -> str:
        return f"<weft tool {self.name}>"
