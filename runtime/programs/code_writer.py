"""Python functions that run rows, written from programs that ask in turn (`in_turn`).

Where nothing is ever missing, a region is straight code: values are local variables, texts are
gathered as tuples that are mostly known when it is written, and a fork's branch or an inlined
program is a function inside. One generator for each row, or branch, waits where it asks, in the
methods of `asks.Asks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from keyword import iskeyword
from typing import Any

from ...ir.core import Operation, Region, Value, thaw
from ...ir.evaluate import evaluate
from ...ir.types import KV, STR
from ...ir.values import ErrorValue, format_value
from ..interrupts import interrupted
from .code_pieces import Code, Piece, is_written, joined_pieces, listed, tuple_of
from .control import is_seldom
from .gens import Gen

USED = {
    "evaluate": evaluate, "format_value": format_value, "ErrorValue": ErrorValue,
    "is_seldom": is_seldom, "interrupted": interrupted,
}  # fmt: skip
"""What functions call besides the row's methods."""

RESERVED = frozenset({"row", "frame", "range", "isinstance", "enumerate", *USED})

FEW = 4
"""Ids that are written where they are used: more have a name."""


class Writer:
    """Writes operations as statements; `bound` are objects that these name."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}
        self._constants: dict[tuple[Piece, ...], str] = {}
        self._lines: list[str] = []
        self._depth = 0
        self._waits = 0
        self._borrows = False
        """A while's condition only looks at the values that its body goes on with."""
        self._taken = set(RESERVED)
        self._names: dict[str, str] = {}
        """What stands for a value: a variable, or a constant itself."""
        self._pieces: dict[str, tuple[Piece, ...]] = {}
        """What segments are made of."""
        self._sources: dict[str, tuple[Value, ...]] = {}
        """The values whose texts are in a segment."""

    def text(self) -> str:
        """Return all that was written."""
        known = (f"{name} = {tuple_of(pieces)}" for pieces, name in self._constants.items())
        return "\n".join((*known, *self._lines, ""))

    def program(self, name: str, region: Region) -> str:
        """Write the function of a program; return its name."""
        function = self._fresh(name)
        with self._function(function, ("row", "frame"), region.arguments):
            self._region(region, ())
        return function

    # Names.

    def _fresh(self, hint: str) -> str:
        plain = re.sub(r"\W", "_", hint)
        if not plain.isidentifier() or iskeyword(plain):
            plain = f"_{plain}"
        name, number = plain, 0
        while name in self._taken:
            number += 1
            name = f"{plain}_{number}"
        self._taken.add(name)
        return name

    def _new(self, value: Value) -> str:
        name = self._names[value.name] = self._fresh(value.name)
        return name

    def _bind(self, hint: str, what: Any) -> str:
        name = self._fresh(hint)
        self.bound[name] = what
        return name

    def _of(self, values: Iterable[Value]) -> list[str]:
        return [self._names[value.name] for value in values]

    def _there(self, value: Value) -> str:
        """Return what gives a value once that is there."""
        return self._names[value.name]

    # Lines.

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self._line(f"{head}:")
        self._depth += 1
        start = len(self._lines)
        yield
        if len(self._lines) == start:
            self._line("pass")
        self._depth -= 1

    @contextmanager
    def _function(
        self, name: str, first: Sequence[str], arguments: Sequence[Value], seen: Sequence[str] = ()
    ) -> Iterator[None]:
        """Write a generator function, be there something to wait for in it or not.

        Of variables around it that are `seen` it keeps what they are when it is made.
        """
        kept = (f"{name}={name}" for name in seen)
        names = ", ".join((*first, *(self._new(value) for value in arguments), *kept))
        outer, self._waits = self._waits, 0
        with self._block(f"def {name}({names})"):
            start = len(self._lines)
            yield
            if not self._waits:
                self._lines.insert(start, "    " * self._depth + "yield from ()")
        self._waits = outer

    def _wait(self, call: str, results: Sequence[Value]) -> None:
        self._waits += 1
        self._let(results, f"yield from {call}")

    def _let(self, results: Sequence[Value], text: str) -> None:
        names = ", ".join(self._new(value) for value in results)
        self._line(f"{names} = {text}" if names else text)

    def _assign(self, names: Sequence[str], values: Sequence[str]) -> None:
        if names:
            self._line(f"{', '.join(names)} = {', '.join(values)}")

    # Regions.

    def _region(self, region: Region, given: Sequence[str]) -> str:
        """Write a region that gives variables, where it yields; return how it ends."""
        for operation in region.operations:
            kind = operation.name.partition(".")[2]
            if kind == "yield":
                self._assign(given, self._of(operation.operands))
            elif kind == "condition":
                with self._block(f"if not {self._there(operation.operands[0])}"):
                    self._line("break")
            elif kind == "return":
                self._line(f"return {', '.join(map(self._there, operation.operands))}".rstrip())
            elif kind == "leave":
                self._line(f"return {', '.join(self._of(operation.operands))}")
            else:
                self._way(operation)(operation)
                continue
            return kind
        return "yield"

    def _way(self, operation: Operation) -> Callable[[Operation], None]:
        """Return what writes an operation."""
        return getattr(self, f"_{operation.name.partition('.')[2]}", self._value)

    def _carried(self, arguments: Sequence[Value]) -> list[str]:
        return [self._new(value) for value in arguments]

    def _for(self, operation: Operation) -> None:
        (region,) = operation.regions
        items, first = self._there(operation.operands[0]), self._of(operation.operands[1:])
        element, *carried = self._carried(region.arguments)
        self._assign(carried, first)
        number = self._fresh("round")
        with self._block(f"for {number}, {element} in enumerate({items})"):
            self._round(operation, number, region.arguments[1:], carried)
            self._region(region, carried)
        self._results(operation, carried)

    def _while(self, operation: Operation) -> None:
        test, body = operation.regions
        carried = self._carried(test.arguments)
        self._assign(carried, self._of(operation.operands))
        number = self._fresh("round")
        with self._block(f"for {number} in range({operation['limit']})"):
            self._round(operation, number, test.arguments, carried)
            borrows, self._borrows = self._borrows, True
            self._region(test, ())
            self._borrows = borrows
            for value, name in zip(body.arguments, carried, strict=True):
                self._names[value.name] = name
            self._region(body, carried)
        self._results(operation, carried)

    def _round(
        self, operation: Operation, number: str, values: Sequence[Value], carried: Sequence[str]
    ) -> None:
        """Write what begins a round: see `ControlFlow.round`."""
        streams = [name for value, name in zip(values, carried, strict=True) if value.type == KV]
        with self._block(f"if is_seldom({number}) or interrupted()"):
            what = self._bind("loop", operation)
            self._wait(f"row.round({what}, {number}, {listed(streams)})", ())

    def _if(self, operation: Operation) -> None:
        condition = self._there(operation.operands[0])
        results = self._carried(operation.results)
        for head, region in zip((f"if {condition}", "else"), operation.regions, strict=True):
            with self._block(head):
                self._region(region, results)

    def _inline(self, operation: Operation) -> None:
        (region,) = operation.regions
        name = self._fresh(f"inline_{operation['name'].name}")
        with self._function(name, (), region.arguments):
            self._region(region, ())
        self._wait(f"{name}({', '.join(self._of(operation.operands))})", operation.results)

    def _results(self, operation: Operation, carried: Sequence[str]) -> None:
        """Let a loop's results be what it carried; another loop may carry them on."""
        for value, name in zip(operation.results, carried, strict=True):
            self._names[value.name] = name

    # What asks.

    def _decode(self, operation: Operation) -> None:
        gen = self._bind(hint_of(operation), Gen.of(operation))
        (kv,) = self._of(operation.operands)
        self._wait(f"row.gen({gen}, {kv}, frame)", operation.results)

    def _select(self, operation: Operation) -> None:
        what = self._bind(hint_of(operation), operation)
        kv, options = self._of(operation.operands)
        self._wait(f"row.select({what}, {kv}, {options}, frame)", operation.results)

    def _fork(self, operation: Operation) -> None:
        what, kv, over, branch = self._forked(operation)
        values, *streams = operation.results
        given = (values, *(streams or (Value("_", values.type),)))
        self._wait(f"row.fork({what}, {kv}, {over}, {branch}, frame)", given)

    def _forked(self, operation: Operation, seen: Sequence[str] = ()) -> tuple[str, str, str, str]:
        """Write what a branch runs, which has `seen` as they are now; return the fork, its operands
        and the branch's function."""
        (region,) = operation.regions
        what = self._bind(hint_of(operation), operation)
        kv, over = self._of(operation.operands)
        branch = self._fresh(f"branch_of_{operation['name']}")
        with self._function(branch, ("frame",), region.arguments, seen):
            last = region.operations[-1]
            self._region(Region(region.arguments, region.operations[:-1]), ())
            self._line(f"return {listed(self._of(last.operands))}")
        return what, kv, over, branch

    def _join(self, operation: Operation) -> None:
        what = self._bind(hint_of(operation), operation)
        handles, points = self._of(operation.operands)
        self._let(operation.results, f"row.join({what}, {handles}, {points}, frame)")

    def _call(self, operation: Operation) -> None:
        what = self._bind(hint_of(operation), operation)
        values = listed(self._of(operation.operands))
        self._wait(f"row.call({what}, {values}, frame)", operation.results)

    def _call_tool(self, operation: Operation) -> None:
        what = self._bind(hint_of(operation), operation)
        values = ", ".join(self._of(operation.operands))
        self._wait(f"row.tool({what}, [{values}])", operation.results)

    # Streams.

    def _free(self, operation: Operation) -> None:
        (kv,) = self._of(operation.operands)
        if not self._borrows:
            self._line(f"row.done_with({kv})")

    def _tokens(self, operation: Operation) -> None:
        self._pieces[operation.result.name] = tuple(operation["ids"])
        self._sources[operation.result.name] = ()

    def _tokenize(self, operation: Operation) -> None:
        self._pieces[operation.result.name] = tuple(
            part
            if isinstance(part, int | str)
            else self._as_text(operation.operands[part["value"]])
            for part in operation["parts"]
        )
        self._sources[operation.result.name] = operation.operands

    def _as_text(self, value: Value) -> Code:
        name = self._names[value.name]
        return Code(name if value.type == STR else f"format_value({name})")

    def _extend(self, operation: Operation) -> None:
        self._let(operation.results, self._extended(operation))

    def _extended(self, operation: Operation) -> str:
        kv, *_ = self._of(operation.operands[:1])
        pieces = [
            piece for segment in operation.operands[1:] for piece in self._pieces[segment.name]
        ]
        return f"{kv}.plus({self._parts(joined_pieces(pieces))})"

    def _parts(self, pieces: Sequence[Piece]) -> str:
        if not any(isinstance(piece, Code) for piece in pieces):
            return self._known(tuple(pieces))
        found: list[str] = []
        run: list[Piece] = []
        for piece in (*pieces, None):
            if isinstance(piece, int):
                run.append(piece)
                continue
            found += [f"*{self._known(tuple(run))}"] if len(run) > FEW else map(repr, run)
            run = []
            if piece is not None:
                found.append(piece if isinstance(piece, Code) else repr(piece))
        return listed(found)

    def _known(self, pieces: tuple[Piece, ...]) -> str:
        if len(pieces) <= FEW:
            return tuple_of(pieces)
        if pieces not in self._constants:
            self._constants[pieces] = self._fresh("known")
        return self._constants[pieces]

    # Values.

    def _value(self, operation: Operation) -> None:
        what = self._bind(operation.name.partition(".")[2], operation)
        operands = listed(self._of(operation.operands))
        self._let(operation.results, f"evaluate({what}, {operands}, frame.row)")

    def _constant(self, operation: Operation) -> None:
        value = thaw(operation.attribute("value"))
        if not is_written(value):
            self._value(operation)
        elif isinstance(value, list | dict):  # a new one each time
            self._let(operation.results, repr(value))
        else:
            self._names[operation.result.name] = repr(value)

    def _list(self, operation: Operation) -> None:
        self._let(operation.results, f"[{', '.join(self._of(operation.operands))}]")

    def _result(self, operation: Operation) -> None:
        (self._names[operation.result.name],) = self._of(operation.operands)

    _error = _result

    def _is_error(self, operation: Operation) -> None:
        (value,) = self._of(operation.operands)
        self._let(operation.results, f"isinstance({value}, ErrorValue)")


def hint_of(ask: Operation) -> str:
    """Return what code calls an operation that asks."""
    kind = ask.name.partition(".")[2]
    word = {"decode": "gen", "call_tool": "tool"}.get(kind, kind)
    name = ask.attribute("name")
    return word if name is None else f"{word}_{getattr(name, 'name', name)}"
