"""How tiles are padded for Triton: extents become powers of two, and at least 16 where they meet
a `tile.dot`; axes that must agree are padded alike."""

from __future__ import annotations

from ...ir.core import Operation, Value, walk
from ...ir.dialects.tile import extents_of

_DOT_LEAST = 16
_Axis = tuple[str, int]


def padded_shapes(kernel: Operation) -> dict[str, tuple[int, ...]]:
    """Return the shape that Triton sees for every tile of a kernel, by value name."""
    padding = _Padding()
    for operation in walk(kernel.regions[0].operations):
        padding.visit(operation)
    return padding.shapes()


def axes_of(kernel: Operation, axis: _Axis) -> frozenset[_Axis]:
    """Return all axes, each a value's name and a place, that must agree with one."""
    padding = _Padding()
    for operation in walk(kernel.regions[0].operations):
        padding.visit(operation)
    return padding.agreeing(axis)


class _Padding:
    """Union-find over the axes of values; a class is as long as its longest need."""

    def __init__(self) -> None:
        self._parent: dict[_Axis, _Axis] = {}
        self._least: dict[_Axis, int] = {}
        self._values: dict[str, tuple[int, ...]] = {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the padded shape of each value."""
        return {
            name: tuple(self._extent((name, axis), extent) for axis, extent in enumerate(shape))
            for name, shape in self._values.items()
        }

    def agreeing(self, axis: _Axis) -> frozenset[_Axis]:
        """Return the axes of an axis' class."""
        axes = ((name, at) for name, shape in self._values.items() for at in range(len(shape)))
        return frozenset(each for each in axes if self._find(each) == self._find(axis))

    def visit(self, operation: Operation) -> None:
        """Learn which axes an operation ties together."""
        for value in (*operation.operands, *operation.results):
            self._know(value)
        method = getattr(self, "_" + operation.name.partition(".")[2], None)
        if method is not None:
            method(operation)

    def _know(self, value: Value) -> None:
        self._values[value.name] = extents_of(value.type)

    def _find(self, axis: _Axis) -> _Axis:
        while axis in self._parent:
            axis = self._parent[axis]
        return axis

    def _extent(self, axis: _Axis, extent: int) -> int:
        return max(power_of_two(extent), self._least.get(self._find(axis), 1))

    def _tie(self, left: _Axis, right: _Axis) -> None:
        left, right = self._find(left), self._find(right)
        if left != right:
            self._parent[left] = right
            self._least[right] = max(self._least.get(left, 1), self._least.get(right, 1))

    def _tie_all(self, left: Value, right: Value) -> None:
        """Tie the axes of two values that broadcast together, from the last."""
        one, two = self._values[left.name], self._values[right.name]
        for back in range(1, min(len(one), len(two)) + 1):
            if one[-back] == two[-back]:
                self._tie((left.name, len(one) - back), (right.name, len(two) - back))

    def _map(self, operation: Operation) -> None:
        for operand in operation.operands:
            self._tie_all(operand, operation.result)

    def _load(self, operation: Operation) -> None:
        for operand in operation.operands[1:]:
            self._tie_all(operand, operation.result)

    def _store(self, operation: Operation) -> None:
        parts = operation.operands[1:]
        widest = max(parts, key=lambda part: len(self._values[part.name]))
        for left in (widest, *parts):
            for right in parts:
                self._tie_all(left, right)

    _atomic_add = _store

    def _reduce(self, operation: Operation) -> None:
        (operand,), result = operation.operands, operation.result
        axes = [a for a in range(len(self._values[operand.name])) if a != operation["axis"]]
        for new, old in enumerate(axes):
            self._tie((operand.name, old), (result.name, new))

    _argmax = _reduce

    def _scan(self, operation: Operation) -> None:
        self._tie_all(operation.operands[0], operation.result)

    def _histogram(self, operation: Operation) -> None:
        self._tie_all(operation.operands[1], operation.result)

    def _expand(self, operation: Operation) -> None:
        (operand,), result = operation.operands, operation.result
        axes = [a for a in range(len(self._values[result.name])) if a != operation["axis"]]
        for old, new in enumerate(axes):
            self._tie((operand.name, old), (result.name, new))

    def _transpose(self, operation: Operation) -> None:
        (operand,), result = operation.operands, operation.result
        self._tie((operand.name, 0), (result.name, 1))
        self._tie((operand.name, 1), (result.name, 0))

    def _dot(self, operation: Operation) -> None:
        a, b, acc = operation.operands
        inner, outer = (1, 0) if operation.attribute("transpose_b") else (0, 1)
        pairs = [((a.name, 1), (b.name, inner)), ((a.name, 0), (acc.name, 0)),
                 ((b.name, outer), (acc.name, 1))]  # fmt: skip
        for left, right in pairs:
            self._tie(left, right)
            self._least[self._find(left)] = _DOT_LEAST
        self._tie_all(acc, operation.result)

    def _for(self, operation: Operation) -> None:
        (region,) = operation.regions
        arguments, yielded = region.arguments[1:], region.operations[-1].operands
        for value in (*region.arguments, *yielded):
            self._know(value)
        for group in zip(
            operation.operands[2:], arguments, yielded, operation.results, strict=True
        ):
            for other in group[1:]:
                self._tie_all(group[0], other)


def power_of_two(extent: int) -> int:
    """Return the least power of two not below an extent."""
    return 1 << max(extent - 1, 0).bit_length()
