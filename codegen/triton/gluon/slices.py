"""Which operations of a kernel some values need."""

from __future__ import annotations

from collections.abc import Iterable

from ....ir.core import Operation, Value, walk


class Slice:
    """The operations that `roots` need, and themselves; what stands in `given` is there already.

    Of loops it knows which of what they carry is needed.
    """

    def __init__(
        self, kernel: Operation, roots: Iterable[Value], given: Iterable[str] = (),
        kept: Iterable[Operation] = (),
    ) -> None:  # fmt: skip
        self._makers: dict[str, tuple[Operation, int | None]] = {}
        self._around: dict[int, Operation] = {}
        self.values = set[str]()
        self.operations = set[int]()
        self._given = frozenset(given)
        for operation in walk(kernel.regions[0].operations):
            self._know(operation)
        self._wanted = [value.name for value in roots]
        for operation in kept:
            self._keep(operation)
        while self._wanted:
            self._visit(self._wanted.pop())

    def carried(self, loop: Operation) -> list[int]:
        """Return which of what a loop carries is needed, by place."""
        arguments = loop.regions[0].arguments[1:]
        return [at for at, value in enumerate(arguments)
                if value.name in self.values or loop.results[at].name in self.values]  # fmt: skip

    def _know(self, operation: Operation) -> None:
        for at, value in enumerate(operation.results):
            self._makers[value.name] = operation, at if operation.regions else None
        for region in operation.regions:
            for at, value in enumerate(region.arguments):
                self._makers[value.name] = operation, at - 1
            for inner in region.operations:
                self._around[id(inner)] = operation

    def _keep(self, operation: Operation) -> None:
        if id(operation) in self.operations:
            return
        self.operations.add(id(operation))
        if operation.regions:
            self._wanted += [value.name for value in operation.operands[:2]]
        else:
            self._wanted += [value.name for value in operation.operands]
        around = self._around.get(id(operation))
        if around is not None:
            self._keep(around)

    def _visit(self, name: str) -> None:
        if name in self.values or name in self._given:
            return
        self.values.add(name)
        if name not in self._makers:
            return
        operation, at = self._makers[name]
        self._keep(operation)
        if at is not None and at >= 0:
            (region,) = operation.regions
            carried = (operation.operands[2 + at], region.arguments[1 + at],
                       region.operations[-1].operands[at])  # fmt: skip
            self._wanted += [value.name for value in carried]
