"""A function's body under rewriting, for passes that look at patterns of graph operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ...ir.core import Module, Names, Operation, Region, Value
from ..rewrite import substitute, uses


class Body:
    """A function's operations under rewriting: who makes a value, how often it is used."""

    def __init__(self, module: Module, function: Operation) -> None:
        self.operations = list(function.regions[0].operations)
        self.maker = {value.name: op for op in self.operations for value in op.results}
        self.uses: Counter[str] = uses(self.operations)
        self.names = Names.of(module)
        self._drop: set[int] = set()
        self._after: dict[int, list[Operation]] = {}
        self._renamed: dict[str, Value] = {}

    def users(self, value: Value, name: str) -> list[Operation]:
        """Return the operations of a name that take a value, in order."""
        return [op for op in self.operations if op.name == name and value in op.operands]

    def made_by(self, value: Value, name: str) -> Operation | None:
        """Return the operation of this name that makes the value."""
        maker = self.maker.get(value.name)
        return maker if maker is not None and maker.name == name else None

    def replace(self, last: Operation, gone: list[Operation], new: list[Operation]) -> None:
        """Put `new` where `last` is, and take `gone` out."""
        self._drop.update(map(id, gone))
        self._after[id(last)] = new

    def rename(self, old: Value, new: Value) -> None:
        """Let every use of `old` mean `new`."""
        self._renamed[old.name] = new

    def added(self) -> list[list[Operation]]:
        """Return what has been put in so far, list by list."""
        return list(self._after.values())

    def finish(self, function: Operation) -> Operation:
        """Return the function with all replacements made."""
        out: list[Operation] = []
        for operation in self.operations:
            if id(operation) not in self._drop:
                out.append(operation)
            out += self._after.get(id(operation), [])
        region = replace(
            function.regions[0],
            operations=tuple(substitute(operation, self._renamed) for operation in out),
        )
        return replace(function, regions=(region,))


def rewrite_functions(
    module: Module, rewrite: Callable[[Body], None],
    arrange: Callable[[Region], Region] = lambda region: region,
) -> Module:  # fmt: skip
    """Apply a rewrite to the body of every graph.func, and then `arrange` its operations."""
    operations = []
    for operation in module.operations:
        if operation.name == "graph.func":
            body = Body(module, operation)
            rewrite(body)
            operation = body.finish(operation)
            operation = replace(operation, regions=(arrange(operation.regions[0]),))
        operations.append(operation)
    return Module(tuple(operations))
