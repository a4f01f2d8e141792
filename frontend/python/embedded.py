"""Programs written as Python functions: `@program` and `@tool`, read from source, never run.

@weft.program
def judge(s, essay: str, sides: list[str] = ["clarity", "evidence"]) -> str:
    s.user(f"Essay:\\n{essay}")

    @s.fork(sides)
    def reviews(s, side):                    # one branch a side; `return` yields
        s.user(f"Judge only its {side}.")
        review = s.assistant.gen(Review)     # a dataclass is a record
        return review

    with s.assistant:
        s += "Grade: "
        grade = s.select(["A", "B", "C", "D"])
    return grade
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import Any, overload

from ...ir.diagnostics import WeftError, WeftTypeError
from ...ir.source import Source
from .. import ast
from ..faults import Faults
from ..semantics.errors import RecursiveProgram
from .reader import read_program
from .source import read_source
from .tools import Tool

__all__ = [
    "ProgramFunction", "Tool", "between", "grammar", "limit", "matching", "program", "schema",
    "tool",
]  # fmt: skip


class ProgramIsNotCalled(WeftTypeError):
    """A program called like a Python function."""

    template = "`{name}` is a program: it is compiled, not called"
    hint = "weft.compile({name}) gives something to run"


class ProgramFunction:
    """A program in Python form: its source, its AST, and the tools that it names."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = function.__name__
        self._reading = False
        update_wrapper(self, function)

    @cached_property
    def source(self) -> Source:
        """The file that the function stands in."""
        return read_source(self.function.__code__.co_filename)

    @cached_property
    def _read(self) -> tuple[ast.File, dict[str, Tool]]:
        return self._read_with(Faults())

    def _read_with(self, faults: Faults) -> tuple[ast.File, dict[str, Tool]]:
        if self._reading:
            raise RecursiveProgram(names=f"{self.name} -> ... -> {self.name}")
        self._reading = True
        try:
            return read_program(self.function, self.source, faults)
        finally:
            self._reading = False

    def faults(self) -> list[WeftError]:
        """Return the errors of all statements that cannot be read as a program's."""
        found = Faults(gather=True)
        with found.attempt():
            self._read_with(found)
        return [error if error.source else error.with_source(self.source) for error in found.found]

    @property
    def file(self) -> ast.File:
        """The program with the records and tools that it uses, as an AST file."""
        return self._read[0]

    @property
    def tools(self) -> dict[str, Tool]:
        """The tools that the program names."""
        return self._read[1]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Refuse: the function's body is read, never run."""
        raise ProgramIsNotCalled(name=self.name)

    def __repr__(self) -> str:
        return f"<weft program {self.name}>"


@overload
def program(function: Callable[..., Any], /) -> ProgramFunction: ...
@overload
def program() -> Callable[[Callable[..., Any]], ProgramFunction]: ...
def program(function: Any = None, /) -> Any:
    """Make a program of a function; its first parameter is the stream."""
    return ProgramFunction if function is None else ProgramFunction(function)


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *, timeout: float | None = None, pure: bool = False
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(function: Any = None, /, *, timeout: float | None = None, pure: bool = False) -> Any:
    """Make a function callable from programs; its parameters and result need annotations.

    A `pure` one has no effects and gives the same value for the same arguments: where those are
    constants, it is run when the program is compiled.
    """
    if function is None:
        return lambda inner: Tool(inner, timeout, pure)
    return Tool(function, timeout, pure)


@dataclass(frozen=True)
class Constraint:
    """What `Annotated[type, ...]` carries for weft."""

    kind: str
    values: tuple[Any, ...]


def between(low: int, high: int) -> Constraint:
    """Constrain an int: `Annotated[int, between(1, 10)]` is `int(1..10)`, both ends included."""
    return Constraint("between", (low, high))


def matching(pattern: str) -> Constraint:
    """Constrain a str: `Annotated[str, matching("[A-Z]+")]` is `regex "[A-Z]+"`."""
    return Constraint("matching", (pattern,))


def schema(path: str) -> Constraint:
    """Hold a gen to a JSON Schema file: `s.gen(schema("order.json"))` is `schema "order.json"`."""
    return Constraint("schema", (path,))


def grammar(path: str) -> Constraint:
    """Hold a gen to a grammar file: `s.gen(grammar("sum.lark"))` is `grammar "sum.lark"`."""
    return Constraint("grammar", (path,))


def limit(max_tokens: int = 0, max_items: int = 0) -> Constraint:
    """Bound a field: `Annotated[str, limit(max_tokens=24)]` is `str(max_tokens=24)`."""
    return Constraint("limit", (max_tokens, max_items))
