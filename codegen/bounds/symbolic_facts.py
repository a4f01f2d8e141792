"""Launch facts as z3 constraints: the contents of buffers are functions of their indices, and a
fact about contents is instantiated at every index that the kernel reads."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import z3

from ...ir.core import Operation, Term, Value, walk
from ...ir.dialects.tile_checks import WRITES
from ...ir.expression import names, offsets, read
from ...ir.types import dtype_of, shape_of
from .symbolic_expressions import UNKNOWN, SymbolicWriter, boolean

RANGES = {"i8": (-128, 127), "u8": (0, 255), "i16": (-(2**15), 2**15 - 1), "u16": (0, 2**16 - 1),
          "i32": (-(2**31), 2**31 - 1), "u32": (0, 2**32 - 1)}  # fmt: skip
_RISING = re.compile(r"(?P<name>\w+)\[i\] <= (?P=name)\[i \+ 1\]")
_ROUNDS = 2
"""How often facts are instantiated at elements that facts themselves mention."""


class Contents:
    """What integer buffers hold, and the constraints that hold of it for every launch."""

    def __init__(self, kernel: Operation) -> None:
        self._arguments = {value.name: value for value in kernel.regions[0].arguments}
        self._facts = kernel.attribute("requires", ())
        self._written = set(kernel.attribute("writes", ())) | {
            op.operands[0].name for op in walk(kernel.regions[0].operations) if op.name in WRITES
        }
        self.scalars = {
            name: z3.Int(name) for name, value in self._arguments.items()
            if value.type.name != "buffer"
        }  # fmt: skip
        self.constraints: list[Any] = []
        self._seen: dict[str, dict[tuple[int, ...], tuple[Any, ...]]] = {}
        rising = (_RISING.fullmatch(fact) for fact in self._facts)
        self._monotone = {match["name"] for match in rising if match} - self._written
        self._dimensions()
        for fact in self._facts:
            if not _elements(fact) and not offsets(fact):
                self._assume(fact, {}, {}, 0)

    def extents(self, buffer: Value) -> list[Any]:
        """Return a buffer's extents as terms."""
        return [
            self.scalars[dim.name] if isinstance(dim, Term) else z3.IntVal(dim)
            for dim in shape_of(buffer.type)
        ]

    def load(self, buffer: Value, indices: tuple[Any, ...]) -> Any:
        """Return an element of a buffer; what the kernel writes itself may be anything."""
        dtype = dtype_of(buffer.type)
        if dtype == "bool":
            return z3.FreshBool(buffer.name)
        if dtype not in RANGES and dtype != "i64":
            return UNKNOWN
        if buffer.name in self._written:
            term = z3.FreshInt(buffer.name)
            self._typed(dtype, term)
            return term
        return self._content(buffer.name, indices, 0)

    def elements(self) -> list[Any]:
        """Return conditions under which each buffer that facts speak of has some element, of which
        they then say what they say."""
        named = {name for fact in self._facts for name in _elements(fact)}
        named |= {name for fact in self._facts for name, _ in offsets(fact)}
        found: list[Any] = []
        for name in sorted(named - self._written):
            extents = self.extents(self._arguments[name])
            places = tuple(z3.FreshInt("place") for _ in extents)
            for place, extent in zip(places, extents, strict=True):
                found += [place >= 0, place < extent]
            self._content(name, places, 0)
        return found

    def _dimensions(self) -> None:
        for value in self._arguments.values():
            for dim in shape_of(value.type) if value.type.name == "buffer" else ():
                if isinstance(dim, Term):
                    self.constraints.append(self.scalars[dim.name] >= 0)

    def _typed(self, dtype: str, term: Any) -> None:
        if dtype in RANGES:
            low, high = RANGES[dtype]
            self.constraints += [term >= low, term <= high]

    def _content(self, name: str, indices: tuple[Any, ...], depth: int) -> Any:
        sorts = [z3.IntSort()] * (len(indices) + 1)
        term = z3.Function(name, *sorts)(*indices)
        known, place = self._seen.setdefault(name, {}), tuple(index.get_id() for index in indices)
        if depth <= _ROUNDS and place not in known:
            if name in self._monotone:
                self._ordered(term, indices[0], known.values())
            known[place] = indices
            self._typed(dtype_of(self._arguments[name].type), term)
            for fact in self._facts:
                self._instantiate(fact, name, indices, depth)
        return term

    def _ordered(self, term: Any, index: Any, known: Iterable[tuple[Any, ...]]) -> None:
        """Assume of a monotone buffer what induction gives: any two elements are ordered."""
        for (other,) in known:
            content = z3.Function(term.decl().name(), z3.IntSort(), z3.IntSort())(other)
            self.constraints += [
                z3.Implies(other <= index, content <= term),
                z3.Implies(index <= other, term <= content),
            ]

    def _instantiate(self, fact: str, name: str, indices: tuple[Any, ...], depth: int) -> None:
        """Assume a fact with `name[*]`, or one of its `name[i + offset]`, at these indices."""
        elements = _elements(fact)
        if name in elements:
            choices = [
                [indices] if other == name else [*self._seen.get(other, {}).values()]
                for other in elements
            ]
            for choice in itertools.product(*choices):
                self._assume(fact, {}, dict(zip(elements, choice, strict=True)), depth)
        for other, offset in offsets(fact):
            if other == name:
                self._assume(fact, {"i": indices[0] - offset}, {}, depth)

    def _assume(
        self, fact: str, variables: dict[str, Any], chosen: dict[str, tuple[Any, ...]], depth: int
    ) -> None:  # fmt: skip
        inside = [
            condition
            for name, places in (
                *chosen.items(),
                *((name, (variables["i"] + by,)) for name, by in offsets(fact)),
            )
            for place, extent in zip(places, self.extents(self._arguments[name]), strict=True)
            for condition in (place >= 0, place < extent)
        ]
        writer = SymbolicWriter(
            self.scalars | variables,
            lambda name: self._content(name, chosen[name], depth + 1),
            lambda name, index: self._content(name, (index,), depth + 1),
        )
        term = UNKNOWN if self._names_written(fact) else read(fact, writer)
        if term is not UNKNOWN:
            self.constraints.append(z3.Implies(z3.And(*inside), boolean(term)))

    def _names_written(self, fact: str) -> bool:
        return any(name in self._written for name in names(fact))


@cache
def _elements(fact: str) -> tuple[str, ...]:
    tree = ast.parse(fact.replace("[*]", "[...]"), mode="eval")
    found = [
        node.value.id for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
        and isinstance(node.slice, ast.Constant) and node.slice.value is ...
    ]  # fmt: skip
    return tuple(dict.fromkeys(found))
