"""What the TVM emitter asks of a kernel before it writes: uses, masks, which values to keep; and
what both emitters let reductions of integers start from.

A tile value is *deferred* (written out where it is used) or *kept* in a local buffer.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

from ..ir.core import Operation, Region, Value
from ..ir.expression import Handler, names, read
from ..ir.types import DTYPE_BYTES, dtype_of, shape_of

VIEWS = frozenset({"tile.expand", "tile.transpose", "tile.reshape"})
_ROUNDED = ("bf16", "f8e4m3")
_CONVERSIONS = frozenset({"a", "f32(a)", "i32(a)"})


@dataclass(frozen=True)
class Use:
    """One operand of one operation, in the region with this number."""

    operation: Operation
    position: int
    region: int


class Analysis:
    """Uses and definitions of one kernel."""

    def __init__(self, kernel: Operation) -> None:
        self.uses: dict[str, list[Use]] = {}
        self.producer: dict[str, Operation] = {}
        self.region_of: dict[str, int] = {}
        self.written = set(kernel.attribute("writes", ())) | {
            operation.operands[0].name
            for operation in _all(kernel.regions[0])
            if operation.name in ("tile.store", "tile.atomic_add", "tile.last")
        }
        self._regions = 0
        self._visit(kernel.regions[0])

    def _visit(self, region: Region) -> None:
        self._regions += 1
        number = self._regions
        for value in region.arguments:
            self.region_of[value.name] = number
        for operation in region.operations:
            for position, value in enumerate(operation.operands):
                self.uses.setdefault(value.name, []).append(Use(operation, position, number))
            for value in operation.results:
                self.producer[value.name] = operation
                self.region_of[value.name] = number
            for inner in operation.regions:
                self._visit(inner)

    def deferred(self, operation: Operation) -> bool:
        """Tell whether a map or load is written out at its uses, instead of kept."""
        value = operation.result
        if operation.name in VIEWS or operation.name in ("tile.full", "tile.iota"):
            return True
        if operation.name == "tile.load":
            return self._load_deferred(operation)
        if operation.name != "tile.map":
            return False
        if self.index_algebra(value):
            return True
        return self._used_once(value, shape_of(value.type), self.region_of[value.name])

    def index_algebra(self, value: Value) -> bool:
        """Tell whether a value is made of scalars, constants and iotas only, without functions."""
        if not shape_of(value.type):
            return True
        operation = self.producer.get(value.name)
        if operation is None:
            return False
        if operation.name in VIEWS or operation.name in ("tile.full", "tile.iota"):
            return all(self.index_algebra(operand) for operand in operation.operands)
        if operation.name != "tile.map" or dtype_of(value.type) in ("f32", "f64"):
            return False
        return all(self.index_algebra(operand) for operand in operation.operands)

    def _load_deferred(self, load: Operation) -> bool:
        value = load.result
        if load.operands[0].name in self.written:
            return False
        indices = load.operands[1:]
        plain = all(self.index_algebra(index) for index in indices)
        uses = self.uses.get(value.name, [])
        if plain and not load.attribute("masked"):
            return True
        return len(uses) <= 1 and self._used_once(
            value, shape_of(value.type), self.region_of[value.name]
        )

    def _used_once(self, value: Value, shape: tuple[object, ...], region: int) -> bool:
        """Tell whether each element is wanted at most once, by an operation of the same region."""
        uses = self.uses.get(value.name, [])
        if len(uses) != 1:
            return not uses
        use = uses[0]
        user = use.operation
        if use.region != region:
            return False
        if user.name in VIEWS:
            return self._used_once(user.result, shape_of(user.result.type), region)
        if user.name == "tile.map":
            letter = string.ascii_lowercase[use.position]
            once = _occurrences(user["expr"], letter) <= 1
            return once and shape_of(user.result.type) == shape and self._wanted_once(user, region)
        if user.name == "tile.dot":
            return use.position == 2 or (use.position == 1 and self.conversion(value) is not None)
        if user.name == "tile.store":
            return use.position == store_value_position(user) and shape == store_shape(user)
        return user.name in ("tile.reduce", "tile.scan", "tile.histogram", "tile.yield")

    def _wanted_once(self, operation: Operation, region: int) -> bool:
        """A deferred map is as good as its own single use; a kept one is evaluated once."""
        if operation.name != "tile.map" or not self.deferred(operation):
            return True
        value = operation.result
        return self._used_once(value, shape_of(value.type), region)

    def gathers(self, value: Value, region: int) -> bool:
        """Tell whether a tile is loaded at a scalar that is itself loaded in this loop body.

        Such a load cannot be foreseen by hardware: it is worth a prefetch.
        """
        load = self.conversion(value)
        return load is not None and any(
            not shape_of(index.type)
            and self.region_of.get(index.name) == region
            and self.producer.get(index.name) is not None
            and self.producer[index.name].name == "tile.load"
            for index in load.operands[1:]
        )

    def streams(self, value: Value) -> bool:
        """Tell whether a tile is loaded at indices that follow from the program and loops alone,
        or that lie where these say in a list: the next program's can be asked for, too."""
        load = self.conversion(value)
        return (
            load is not None
            and load.operands[0].name not in self.written
            and not load.attribute("masked")
            and all(self.index_algebra(at) or self._in_list(at) for at in load.operands[1:])
        )

    def _in_list(self, index: Value) -> bool:
        """Tell whether indices are read from a list that stays, and inside its end wherever."""
        load = self.conversion(index) if shape_of(index.type) else None
        if load is None or load.operands[0].name in self.written or load.attribute("masked"):
            return False
        (place, *more) = load.operands[1:]
        clamp = self.producer.get(place.name)
        clamped = clamp is not None and str(clamp.attribute("expr", "")).startswith("min(")
        return clamped and not more and self.index_algebra(place)

    def conversion(self, value: Value) -> Operation | None:
        """Return the load that a value is, or is a mere change of dtype of; not what rounds."""
        operation = self.producer.get(value.name)
        while operation is not None and (
            operation.name in VIEWS
            or (
                operation.name == "tile.map"
                and operation["expr"] in _CONVERSIONS
                and dtype_of(operation.result.type) not in _ROUNDED
            )
        ):
            operation = self.producer.get(operation.operands[0].name)
        return operation if operation is not None and operation.name == "tile.load" else None

    def boxed(self, value: Value) -> bool:
        """Tell whether a mask holds in a box of indices as soon as it holds at the corners."""
        return self._kind(value) in ("fixed", "affine", "box")

    def _kind(self, value: Value) -> str:
        if not shape_of(value.type):
            return "fixed"
        operation = self.producer.get(value.name)
        if operation is None:
            return "other"
        match operation.name:
            case "tile.full":
                return "fixed"
            case "tile.iota":
                return "affine"
            case "tile.expand" | "tile.transpose":
                return self._kind(operation.operands[0])
            case "tile.map":
                kinds = [self._kind(operand) for operand in operation.operands]
                variables = dict(zip(string.ascii_lowercase, kinds, strict=False))
                return read(operation["expr"], _Kinds(variables))
        return "other"


class _Kinds(Handler[str]):
    """How an expression varies over a tile: fixed, affine, a box-like truth, or otherwise."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables

    def name(self, name: str) -> str:
        """A variable."""
        return self._variables[name]

    def number(self, value: int | float) -> str:
        """A literal."""
        return "fixed"

    def unary(self, op: str, operand: str) -> str:
        """A negation."""
        return operand if op == "-" and operand != "box" else _fixed_or_other(operand)

    def binary(self, op: str, left: str, right: str) -> str:
        """An operation."""
        kinds = {left, right}
        if kinds == {"fixed"}:
            return "fixed"
        if op == "&" and kinds <= {"fixed", "box"}:
            return "box"
        if op in "+-" and kinds <= {"fixed", "affine"}:
            return "affine"
        return "affine" if op == "*" and kinds == {"fixed", "affine"} else "other"

    def compare(self, op: str, left: str, right: str) -> str:
        """A comparison; an affine function is largest and smallest at corners."""
        kinds = {left, right}
        if kinds == {"fixed"}:
            return "fixed"
        return "box" if kinds <= {"fixed", "affine"} and op not in ("!=",) else "other"

    def call(self, function: str, arguments: list[str]) -> str:
        """A function."""
        return "fixed" if set(arguments) == {"fixed"} else "other"


def _fixed_or_other(kind: str) -> str:
    return "fixed" if kind == "fixed" else "other"


def integer_identity(op: str, dtype: str) -> int:
    """Return the integer that changes no `sum`, `max` or `min` of a dtype's numbers."""
    signed, bits = dtype.startswith("i"), 1 if dtype == "bool" else 8 * DTYPE_BYTES[dtype]
    least = -(2 ** (bits - 1)) if signed else 0
    return {"sum": 0, "max": least, "min": least + 2**bits - 1}[op]


def store_value_position(store: Operation) -> int:
    """Return which operand of a store (or atomic add) is the value."""
    return len(store.operands) - (2 if store.attribute("masked") else 1)


def store_shape(store: Operation) -> tuple[int, ...]:
    """Return the shape that a store's indices, value and mask broadcast to."""
    import numpy as np

    return np.broadcast_shapes(*(shape_of(value.type) for value in store.operands[1:]))  # type: ignore[arg-type]


def _occurrences(expr: str, letter: str) -> int:
    import ast

    tree = ast.walk(ast.parse(expr, mode="eval"))
    return sum(isinstance(node, ast.Name) and node.id == letter for node in tree)


def _all(region: Region) -> list[Operation]:
    found: list[Operation] = []
    for operation in region.operations:
        found.append(operation)
        for inner in operation.regions:
            found += _all(inner)
    return found


__all__ = [
    "VIEWS", "Analysis", "Use", "integer_identity", "names", "store_shape", "store_value_position",
]  # fmt: skip
