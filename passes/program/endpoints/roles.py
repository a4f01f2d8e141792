"""Which message, if any, is open at each stream value of a program."""

from __future__ import annotations

from ....ir.core import Operation, Region, Value, walk


class Roles:
    """The role of the open message at each stream; None outside of messages."""

    def __init__(self) -> None:
        self._roles: dict[str, str | None] = {}

    @staticmethod
    def of(function: Operation) -> Roles:
        """Return the roles of a program's streams."""
        roles = Roles()
        roles._region(function.regions[0])
        return roles

    def open_in(self, stream: Value) -> str | None:
        """Return the role of the message that is open at a stream."""
        return self._roles.get(stream.name)

    def _region(self, region: Region) -> None:
        for operation in region.operations:
            self._operation(operation)

    def _operation(self, operation: Operation) -> None:
        kind = operation.name.partition(".")[2]
        if kind in {"literal", "append", "gen", "select", "join"}:
            self._same(operation.results[0], operation.operands[0])
        elif kind == "begin":
            self._roles[operation.results[0].name] = operation["role"]
        elif kind in {"fork", "inline"}:
            self._same(operation.regions[0].arguments[0], operation.operands[0])
            self._region(operation.regions[0])
            self._results(operation)
        elif kind == "for":
            self._carry(operation.regions[0].arguments[1:], operation.operands[1:])
            self._region(operation.regions[0])
            self._carry(operation.results, operation.operands[1:])
        elif kind == "while":
            for region in operation.regions:
                self._carry(region.arguments, operation.operands)
                self._region(region)
            self._carry(operation.results, operation.operands)
        elif kind == "if":
            for region in operation.regions:
                self._region(region)
            self._results(operation)

    def _results(self, operation: Operation) -> None:
        """Take the roles of results from what a region gives, whichever gives any."""
        ends = {"fork": "program.yield", "if": "program.yield", "inline": "program.leave"}
        end = ends[operation.name.partition(".")[2]]
        inner = [op for op in walk(_operations(operation)) if op.name == end]
        if operation.name != "program.inline":
            last = [region.operations[-1] for region in operation.regions if region.operations]
            inner = [op for op in last if op.name == end]
        for terminator in inner:
            self._carry(operation.results, terminator.operands)

    def _carry(self, values: tuple[Value, ...], sources: tuple[Value, ...]) -> None:
        for value, source in zip(values, sources, strict=False):
            self._same(value, source)

    def _same(self, value: Value, source: Value) -> None:
        if source.name in self._roles:
            self._roles[value.name] = self._roles[source.name]


def _operations(operation: Operation) -> tuple[Operation, ...]:
    return tuple(inner for region in operation.regions for inner in region.operations)
