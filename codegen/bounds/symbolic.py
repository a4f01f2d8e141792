"""The integer values of a tile kernel as z3 terms: a tile is a function of its lane.

Arithmetic is unbounded: of overflow only that of values narrower than i32 is modelled (addresses
are formed in 64 bits).
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import z3

from ...ir.core import Operation, Value, walk
from ...ir.dialects.tile import extents_of
from ...ir.expression import read
from ...ir.types import dtype_of
from .symbolic_expressions import UNKNOWN, SymbolicWriter, boolean, integer
from .symbolic_facts import RANGES, Contents
from .symbolic_loops import Loop

Lane = tuple[Any, ...]

ELEMENTS = 200_000
"""Steps of z3's to find elements that meet all facts, which takes our kernels an eighth of them."""


class Values:
    """Gives the term of any value at any lane; the same question gets the same term."""

    def __init__(self, kernel: Operation, effort: int) -> None:
        self.kernel = kernel
        self._solver, self._told, self._effort = z3.Solver(), [0, 0], effort
        self.contents = Contents(kernel)
        self.programs = [z3.Int(f"program_{axis}") for axis in range(len(kernel["grid"]))]
        self.loops: dict[str, Loop] = {}
        self._definitions: dict[str, Operation] = {}
        self._carried: dict[str, tuple[Loop, int]] = {}
        self._terms: dict[tuple[str, tuple[int, ...]], tuple[Any, Lane]] = {}
        self.constraints: list[Any] = []
        for axis, extent in enumerate(kernel["grid"]):
            limit = read(extent, SymbolicWriter(self.contents.scalars))
            self.constraints += [self.programs[axis] >= 0, self.programs[axis] < limit]
        for operation in walk(kernel.regions[0].operations):
            self._learn(operation)

    def _learn(self, operation: Operation) -> None:
        self._definitions |= {value.name: operation for value in operation.results}
        if operation.name != "tile.for":
            return
        index, *arguments = operation.regions[0].arguments
        loop = Loop(self, operation)
        self.loops[index.name] = loop
        for position, value in enumerate(arguments):
            self._carried[value.name] = (loop, position)

    @contextmanager
    def assuming(self, conditions: Sequence[Any], effort: int | None = None) -> Iterator[z3.Solver]:
        """Give a solver that knows conditions, and what holds of the terms given so far; of less
        `effort` a question, if that is given.

        One solver serves a kernel: what holds of terms only grows, and to tell it anew for each
        question took most of a proof's time.
        """
        for place, known in enumerate((self.contents.constraints, self.constraints)):
            self._solver.add(*known[self._told[place] :])
            self._told[place] = len(known)
        self._solver.push()
        self._solver.add(*conditions)
        self._solver.set("rlimit", min(effort or self._effort, self._effort))
        yield self._solver
        self._solver.pop()

    def no_elements(self) -> bool:
        """Return whether facts about elements exclude each other; a solver of its own is asked, as
        no proof needs these elements."""
        contents, solver = Contents(self.kernel), z3.Solver()
        solver.set("rlimit", ELEMENTS)
        solver.add(contents.elements())
        solver.add(contents.constraints)
        return solver.check() == z3.unsat

    def lanes(self, shape: Sequence[int], hint: str = "lane") -> Lane:
        """Return fresh lanes of a shape."""
        lanes = tuple(z3.FreshInt(hint) for _ in shape)
        for lane, extent in zip(lanes, shape, strict=True):
            self.constraints += [lane >= 0, lane < extent]
        return lanes

    def at(self, value: Value, lane: Lane) -> Any:
        """Return a value's term at a lane of a shape that it broadcasts to."""
        shape = extents_of(value.type)
        lane = lane[len(lane) - len(shape) :]
        lane = tuple(z3.IntVal(0) if extent == 1 else part
                     for part, extent in zip(lane, shape, strict=True))  # fmt: skip
        key = (value.name, tuple(part.get_id() for part in lane))
        if key not in self._terms:
            self._terms[key] = (self._typed(value, self._compute(value, lane)), lane)
        return self._terms[key][0]

    def _typed(self, value: Value, term: Any) -> Any:
        dtype = dtype_of(value.type)
        if dtype == "bool":
            return z3.FreshBool(value.name) if term is UNKNOWN else boolean(term)
        if dtype in ("f32", "bf16", "f16", "f64", "f8e4m3"):
            return UNKNOWN
        return z3.FreshInt(value.name) if term is UNKNOWN else integer(term)

    def _compute(self, value: Value, lane: Lane) -> Any:
        if value.name in self.contents.scalars:
            return self.contents.scalars[value.name]
        if value.name in self.loops:
            return self.loops[value.name].index
        if value.name in self._carried:
            loop, position = self._carried[value.name]
            return loop.argument(position, lane)
        operation = self._definitions[value.name]
        if operation.name == "tile.for":
            index = operation.regions[0].arguments[0]
            return self.loops[index.name].result(operation.results.index(value), lane)
        method = getattr(self, "_" + operation.name.partition(".")[2], None)
        return UNKNOWN if method is None else method(operation, lane)

    def _program_id(self, operation: Operation, lane: Lane) -> Any:
        return self.programs[operation["axis"]]

    def _full(self, operation: Operation, lane: Lane) -> Any:
        value = operation["value"]
        return z3.IntVal(int(value)) if float(value).is_integer() else UNKNOWN

    def _iota(self, operation: Operation, lane: Lane) -> Any:
        return lane[0]

    def _map(self, operation: Operation, lane: Lane) -> Any:
        terms = [self.at(operand, lane) for operand in operation.operands]
        variables = dict(zip(string.ascii_lowercase, terms, strict=False))
        term = read(operation["expr"], SymbolicWriter(variables))
        return self._narrowed(term, dtype_of(operation.result.type))

    def _narrowed(self, term: Any, dtype: str) -> Any:
        """Return a term as fewer than 32 bits hold it: what does not fit is any number of these."""
        if term is UNKNOWN or dtype not in RANGES or dtype == "i32":
            return term
        low, high = RANGES[dtype]
        term, wrapped = integer(term), z3.FreshInt("wrapped")
        self.constraints += [wrapped >= low, wrapped <= high]
        return z3.If(z3.And(term >= low, term <= high), term, wrapped)

    def _load(self, operation: Operation, lane: Lane) -> Any:
        buffer, *rest = operation.operands
        if dtype_of(buffer.type) in ("f32", "bf16", "f16", "f64", "f8e4m3"):
            return UNKNOWN
        mask = self.at(rest.pop(), lane) if operation.attribute("masked") else None
        term = self.contents.load(buffer, tuple(self.at(index, lane) for index in rest))
        if mask is None:
            return term
        other = z3.IntVal(int(operation.attribute("other", 0)))
        return z3.If(mask, integer(term), other)

    def _attained(self, operation: Operation, lane: Lane) -> Any:
        """Return the operand at some lane of the reduced axis."""
        (operand,), axis = operation.operands, operation["axis"]
        (here,) = self.lanes((extents_of(operand.type)[axis],))
        return self.at(operand, (*lane[:axis], here, *lane[axis:]))

    def _reduce(self, operation: Operation, lane: Lane) -> Any:
        least = self._attained(operation, lane)
        if operation["op"] != "sum" or least is UNKNOWN:
            return least
        extent = extents_of(operation.operands[0].type)[operation["axis"]]
        most, total = self._attained(operation, lane), z3.FreshInt("sum")
        self.constraints += [extent * integer(least) <= total, total <= extent * integer(most)]
        return total

    def _scan(self, operation: Operation, lane: Lane) -> Any:
        (operand,), axis = operation.operands, operation["axis"]
        extent = extents_of(operand.type)[axis]
        around = (*lane[:axis], *lane[axis + 1 :])
        least, most = self._attained(operation, around), self._attained(operation, around)
        if least is UNKNOWN:
            return UNKNOWN
        total = z3.FreshInt("prefix")
        least, most = integer(least), integer(most)
        self.constraints += [
            total >= z3.If(least < 0, extent * least, z3.IntVal(0)),
            total <= z3.If(most > 0, extent * most, z3.IntVal(0)),
        ]
        return total

    def _argmax(self, operation: Operation, lane: Lane) -> Any:
        (here,) = self.lanes((extents_of(operation.operands[0].type)[operation["axis"]],))
        return here

    def _expand(self, operation: Operation, lane: Lane) -> Any:
        axis = operation["axis"]
        return self.at(operation.operands[0], (*lane[:axis], *lane[axis + 1 :]))

    def _transpose(self, operation: Operation, lane: Lane) -> Any:
        return self.at(operation.operands[0], lane[::-1])

    def _reshape(self, operation: Operation, lane: Lane) -> Any:
        (operand,) = operation.operands
        flat: Any = z3.IntVal(0)
        for part, extent in zip(lane, extents_of(operation.result.type), strict=True):
            flat = flat * extent + part
        old: list[Any] = []
        for extent in reversed(extents_of(operand.type)):
            old.insert(0, flat % extent)
            flat = flat / extent
        return self.at(operand, tuple(z3.simplify(part) for part in old))
