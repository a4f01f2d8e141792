"""Prefix sharing: finds what forks and rows have in common, and says what each shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ....ir.core import Module, Operation, Value, freeze, walk
from ....ir.types import STREAM
from ....ir.vocabulary import Part, encode_parts, split_heal
from ...manager import Context, ProgramPass
from ...rewrite import rewrite_list
from ..roles import Roles


@dataclass(frozen=True)
class PrefixSharing(ProgramPass):
    """Annotate each fork and each program with the prefix that its branches or rows share.

    `prefix = {tokens, values, width}`: tokens known at compile time, values that add tokens when
    they are known, and how many streams read the prefix. The first branch of a fork that reads its
    prefix computes it, so each other one begins with that many hits.
    """

    name: ClassVar[str] = "prefix-sharing"
    requires: ClassVar[tuple[str, ...]] = ("canonical",)
    ensures: ClassVar[tuple[str, ...]] = ("prefixes",)

    def run(self, module: Module, context: Context) -> Module:
        """Return the annotated module."""
        return Module(
            tuple(
                _Function(operation, context).annotated()
                if operation.name == "program.func"
                else operation
                for operation in module.operations
            )
        )


@dataclass(frozen=True)
class _Prefix:
    """What stands above a point of a stream: parts known now, names of values, other sources."""

    parts: tuple[Part, ...] = ()
    values: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class _Function:
    """One program: the definition of each stream, and the annotations that follow from them."""

    def __init__(self, function: Operation, context: Context) -> None:
        self._function = function
        self._context = context
        self._roles = Roles.of(function)
        self._definitions: dict[str, Operation] = {}
        self._region_streams: dict[str, Operation] = {}
        self._constants: dict[str, Any] = {}
        for operation in walk((function,)):
            for value in operation.results:
                self._definitions[value.name] = operation
            for region in operation.regions:
                for value in region.arguments:
                    if value.type == STREAM:
                        self._region_streams[value.name] = operation
            if operation.name == "program.constant":
                self._constants[operation.result.name] = operation["value"]

    def annotated(self) -> Operation:
        region = self._function.regions[0]
        body = rewrite_list(region.operations, self._annotate)
        function = replace(self._function, regions=(replace(region, operations=body),))
        tokens = self._rows_share()
        return function.with_attributes(prefix=freeze({"tokens": tokens}))

    def _annotate(self, operation: Operation) -> list[Operation] | None:
        if operation.name != "program.fork":
            return None
        prefix = self._above(operation.operands[0])
        width = self._width(operation.operands[1])
        tokens = self._count(prefix.parts)
        told = [f"{tokens} known tokens", *(f"{{{name}}}" for name in prefix.values)]
        told += [f"what {origin} adds" for origin in prefix.origins]
        shown = width if isinstance(width, int) else f"len({width})"
        self._context.did(
            f"fork {operation['name']}: {' + '.join(told)} computed once, read by {shown} branches",
            operation.span,
        )
        table = {"tokens": tokens, "values": prefix.values, "width": width}
        return [operation.with_attributes(prefix=freeze(table))]

    def _rows_share(self) -> int:
        """Return how many tokens every row of a batch begins with, and remark on it."""
        parts: list[Part] = list(self._context.chat.start()) if self._context.chat else []
        stop: Operation | None = None
        for operation in self._function.regions[0].operations:
            if operation.name == "program.literal":
                parts.append(operation["text"])
            elif operation.name in {"program.begin", "program.end"}:
                parts += self._roles.markers(self._context.chat, operation)
            elif uses_stream(operation):
                stop = operation
                break
        parts = _closed(parts, stop)
        tokens = self._count(tuple(parts))
        where = stop.span if stop else None
        if tokens:
            self._context.did(f"rows of a batch share their first {tokens} tokens", where)
        else:
            self._context.left("rows of a batch share nothing known: the first text differs", where)
        return tokens

    def _above(self, stream: Value) -> _Prefix:
        """Return what stands above a stream value, back to the program's start."""
        parts: list[Part] = []
        values: list[str] = []
        origins: list[str] = []
        name = stream.name
        while True:
            definition = self._definitions.get(name)
            if definition is None:
                owner = self._region_streams[name]
                if owner.name in {"program.fork", "program.inline"}:
                    name = owner.operands[0].name
                    continue
                if owner.name != "program.func":
                    origins.append(owner.name.partition(".")[2])
                break
            kind = definition.name
            if kind == "program.literal":
                parts.insert(0, definition["text"])
            elif kind in {"program.begin", "program.end"}:
                parts[:0] = self._roles.markers(self._context.chat, definition)
            elif kind == "program.append":
                values.insert(0, definition.operands[1].name)
                parts.insert(0, _BORDER)
            elif kind in {"program.gen", "program.select"}:
                values.insert(0, definition["name"])
                parts.insert(0, _BORDER)
            else:
                origins.append(kind.partition(".")[2])
                break
            name = definition.operands[0].name
        start = list(self._context.chat.start()) if self._context.chat and not origins else []
        return _Prefix((*start, *parts), tuple(values), tuple(origins))

    def _width(self, count: Value) -> int | str:
        constant = self._constants.get(count.name)
        if isinstance(constant, tuple):
            return len(constant)
        definition = self._definitions.get(count.name)
        if definition is not None and definition.name == "program.list":
            return len(definition.operands)
        return constant if isinstance(constant, int) else count.name

    def _count(self, parts: tuple[Part, ...]) -> int:
        """Return the number of tokens of the known parts; characters without a tokenizer."""
        if self._context.tokenizer is None:
            return sum(len(part) if isinstance(part, str) else 1 for part in parts)
        return sum(part != _BORDER for part in encode_parts(self._context.tokenizer, parts))


def uses_stream(operation: Operation) -> bool:
    """Whether an operation, or one inside it, has to do with a stream."""
    return any(
        value.type == STREAM
        for inner in walk((operation,))
        for value in (*inner.operands, *inner.results)
    )


_BORDER = -1
"""Stands, among ids, for a value between two known texts: they are not encoded together."""


def _closed(parts: list[Part], stop: Operation | None) -> list[Part]:
    """Drop what follows may change: the last text, where a value or a region may go on with it, and
    the space that a model call is given back."""
    if stop is None or stop.name == "program.fork":
        return parts
    if stop.name in {"program.gen", "program.select", "program.score"}:
        return list(split_heal(parts)[0])
    while parts and isinstance(parts[-1], str):
        parts = parts[:-1]
    return parts
