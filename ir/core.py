"""The IR's data: terms (types), values, operations, regions and modules, all immutable.

Values are named, and names are unique within a top-level operation, so equality is structural and
the text form is the module: `parse(print(m)) == m`. Spans take no part in equality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .display.view import Shown, View
from .source import Span


@dataclass(frozen=True)
class Term:
    """A type or a symbol: a name with parameters, printed `name` or `name<p, q>`.

    Parameters are attribute values: `tensor<f32, [T, 256]>` is
    `Term("tensor", (Term("f32"), (Term("T"), 256)))`; a bare `T` is a symbolic dimension.
    """

    name: str
    parameters: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        from .printer import print_attribute

        return print_attribute(self)


@dataclass(frozen=True)
class Symbol:
    """A reference to a named operation of the module, printed `@name`."""

    name: str


@dataclass(frozen=True)
class Table:
    """An attribute with string keys, printed `{key = value, ...}`; order is kept and compared."""

    items: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(mapping: Mapping[str, Any]) -> Table:
        """Return the table of a mapping."""
        return Table(tuple(mapping.items()))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value under `key`, or the default."""
        return dict(self.items).get(key, default)

    def __getitem__(self, key: str) -> Any:
        return dict(self.items)[key]


# Lists are given as tuples, so that every attribute hashes.
Attribute = None | bool | int | float | str | Symbol | Term | tuple[Any, ...] | Table


@dataclass(frozen=True)
class Value:
    """An SSA value: a name unique within its function, which reads like the source; a type."""

    name: str
    type: Term


@dataclass(frozen=True)
class Region:
    """A list of operations with arguments; it sees the values defined before its operation."""

    arguments: tuple[Value, ...] = ()
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One operation, `results = name operands, key = attribute { regions } : types`."""

    name: str
    operands: tuple[Value, ...] = ()
    attributes: tuple[tuple[str, Any], ...] = ()
    regions: tuple[Region, ...] = ()
    results: tuple[Value, ...] = ()
    span: Span | None = field(default=None, compare=False)

    def attribute(self, key: str, default: Any = None) -> Any:
        """Return the attribute under `key`, or the default."""
        return self._by_name.get(key, default)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._by_name[key]
        except KeyError:
            raise KeyError(f"{self.name} has no attribute {key!r}") from None

    @cached_property
    def _by_name(self) -> dict[str, Any]:
        return dict(reversed(self.attributes))  # of equal names the first counts

    @property
    def dialect(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """The part of the name behind the dot."""
        return self.name.partition(".")[2]

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def with_attributes(self, **changes: Any) -> Operation:
        """Return a copy with some attributes set; `None` removes one."""
        merged = dict(self.attributes) | changes
        kept = tuple((key, value) for key, value in merged.items() if value is not None)
        return replace(self, attributes=kept)


@dataclass(frozen=True)
class Module(Shown):
    """A list of top-level operations (functions, declarations), as one compilation sees them."""

    operations: tuple[Operation, ...] = ()

    def walk(self) -> Iterator[Operation]:
        """Yield every operation, outer before inner, in text order."""
        return walk(self.operations)

    def symbol(self, name: str) -> Operation:
        """Return the top-level operation that declares `@name` (its `name` attribute)."""
        for operation in self.operations:
            if operation.attribute("name") == Symbol(name):
                return operation
        raise KeyError(f"no @{name} in the module")

    def __str__(self) -> str:
        from .printer import print_module

        return print_module(self)

    def view(self) -> View:
        """Return its text and what it holds."""
        from .display.modules import module_view

        return module_view(self)


def walk(operations: tuple[Operation, ...]) -> Iterator[Operation]:
    """Yield every operation of a list and of its regions, outer before inner."""
    for operation in operations:
        yield operation
        for region in operation.regions:
            yield from walk(region.operations)


def make(
    name: str,
    /,
    *operands: Value,
    results: tuple[Value, ...] = (),
    regions: tuple[Region, ...] = (),
    span: Span | None = None,
    **attributes: Any,
) -> Operation:
    """Build an operation; lists and dicts among the attributes are frozen, `None` dropped."""
    frozen = tuple((key, freeze(value)) for key, value in attributes.items() if value is not None)
    return Operation(name, tuple(operands), frozen, regions, results, span)


def freeze(value: Any) -> Any:
    """Return a Python value as an attribute: lists become tuples, dicts become tables."""
    if isinstance(value, Mapping):
        return Table(tuple((str(key), freeze(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """Return an attribute as a plain Python value: the inverse of `freeze`."""
    if isinstance(value, Table):
        return {key: thaw(item) for key, item in value.items}
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    return value


class Names:
    """Hands out names unique within a module, from hints: `%x`, `%x_1`, `%x_2`, ..."""

    def __init__(self, taken: set[str] | None = None) -> None:
        self._taken = set(taken or ())
        self._next: dict[str, int] = {}

    @staticmethod
    def of(module: Module) -> Names:
        """Return a namer that knows every name of `module`."""
        taken: set[str] = set()
        for operation in module.walk():
            taken.update(value.name for value in operation.results)
            for region in operation.regions:
                taken.update(value.name for value in region.arguments)
        return Names(taken)

    def fresh(self, hint: str) -> str:
        """Return a name like `hint` that was never given out."""
        name, number = hint, self._next.get(hint, 0)
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._next[hint] = number
        self._taken.add(name)
        return name

    def value(self, hint: str, type: Term) -> Value:
        """Return a fresh value."""
        return Value(self.fresh(hint), type)
