"""The numbers of prefix sharing: each fork's prefix counted again, forwards from the start.

What stands above a fork are known texts, values that a run adds, and regions whose text is not
looked into; tokens are those of the known texts, each run between two others encoded by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...ir.core import Module, Operation, Region, freeze
from ...ir.types import STREAM
from ...ir.vocabulary import Part, encode_parts, split_heal
from ..manager import Context
from ..program.prefixes.sharing import uses_stream
from ..program.roles import Roles
from .streams import only_annotated


def prefixes_hold(before: Module, after: Module, context: Context) -> Iterator[str]:
    """Yield each fork and program whose `prefix` is not what a second count gives."""
    yield from only_annotated(before, after, "prefix")
    for function in after.operations:
        if function.name == "program.func":
            count = _Count(function, context)
            name = function["name"].name
            yield from (f"{name}: {problem}" for problem in count.problems())


@dataclass(frozen=True)
class _Above:
    """What stands above a point of a stream: tokens of closed runs, the run that is open."""

    tokens: int = 0
    run: tuple[Part, ...] = ()
    values: tuple[str, ...] = ()


class _Count:
    """Follows the streams of one program in the order of its text."""

    def __init__(self, function: Operation, context: Context) -> None:
        self._function = function
        self._context = context
        self._roles = Roles.of(function)
        self._above: dict[str, _Above] = {}
        self._widths: dict[str, Any] = {}
        self._first: list[int] = []
        """What rows share where a program's own stream first has something else than known text."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the annotations of the program and of its forks."""
        (region,) = self._function.regions
        chat = self._context.chat
        start = _Above(run=tuple(chat.start()) if chat else ())
        yield from self._region(region, start)
        shared = self._first[0] if self._first else None
        found = self._function.attribute("prefix")
        if shared is not None and found != freeze({"tokens": shared}):
            yield f"rows share {shared} tokens, and it says {found}"

    def _region(self, region: Region, above: _Above) -> Iterator[str]:
        for value in region.arguments:
            if value.type == STREAM:
                self._above[value.name] = above
        for operation in region.operations:
            yield from self._operation(operation)

    def _operation(self, operation: Operation) -> Iterator[str]:
        kind = operation.kind
        if kind == "constant":
            value = operation["value"]
            self._widths[operation.result.name] = len(value) if isinstance(value, tuple) else value
        elif kind == "list":
            self._widths[operation.result.name] = len(operation.operands)
        streams = [value for value in operation.operands if value.type == STREAM]
        above = self._above[streams[0].name if streams else next(reversed(self._above))]
        if kind not in {"literal", "begin", "end"} and uses_stream(operation):
            self._first.append(self._shared(operation, above))
        if kind == "fork":
            yield from self._fork(operation, above)
        inside = above if kind in {"fork", "inline"} else _Above()
        for region in operation.regions:
            yield from self._region(region, inside)
        for value in operation.results:
            if value.type == STREAM:
                self._above[value.name] = self._after(operation, above)

    def _after(self, operation: Operation, above: _Above) -> _Above:
        """Return what stands above a stream that an operation gives."""
        match operation.kind:
            case "literal":
                return _Above(above.tokens, (*above.run, operation["text"]), above.values)
            case "begin" | "end":
                markers = self._roles.markers(self._context.chat, operation)
                return _Above(above.tokens, (*above.run, *markers), above.values)
            case "append" | "gen" | "select":
                own = operation.kind == "append"
                name = operation.operands[1].name if own else operation["name"]
                return _Above(self._tokens(above), (), (*above.values, name))
        return _Above()

    def _tokens(self, above: _Above) -> int:
        tokenizer = self._context.tokenizer
        if tokenizer is None:
            run = (len(part) if isinstance(part, str) else 1 for part in above.run)
            return above.tokens + sum(run)
        return above.tokens + len(encode_parts(tokenizer, above.run))

    def _shared(self, stop: Operation, above: _Above) -> int:
        """Return the tokens of a stream's beginning that what follows `stop` cannot change."""
        run = above.run
        if stop.kind in {"gen", "select", "score"}:
            run, _ = split_heal(run)
        elif stop.kind != "fork":
            ids = [at for at, part in enumerate(run) if isinstance(part, int)]
            run = run[: ids[-1] + 1] if ids else ()
        return self._tokens(_Above(above.tokens, run))

    def _fork(self, fork: Operation, above: _Above) -> Iterator[str]:
        over = fork.operands[1].name
        width = self._widths.get(over, over)
        width = width if isinstance(width, int) else over
        wanted = {"tokens": self._tokens(above), "values": above.values, "width": width}
        found = fork.attribute("prefix")
        if found != freeze(wanted):
            yield f"fork {fork['name']} has {wanted} above it, and it says {found}"
