"""A program made ready for an endpoint: its functions, tools, types, and gens that share calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...ir.core import Module, Operation, Region, Term, walk
from ...ir.dialects.program import SAMPLING
from ...ir.values import records_of
from ..programs.bindings import bind_tools, reachable
from ..programs.effects import Effects
from ..programs.lines import Lines
from .consecutive import followers
from .dialects import Holding, holding_of

ConstraintOf = Callable[[Term, Mapping[str, Operation]], tuple[str, str] | None]
PatternOf = Callable[[Term, Mapping[str, Operation]], str]

DEFAULTS = {"temperature": 0.0, "top_p": 1.0}
"""Sampling options that every call says: servers have defaults of their own."""


class RemoteProgram:
    """What all rows of a program on an endpoint share."""

    def __init__(
        self,
        module: Module,
        name: str,
        functions: Mapping[str, Callable[..., Any]],
        constraint_of: ConstraintOf,
        pattern_of: PatternOf,
    ) -> None:
        self.programs = reachable(module, name)
        self.lines = Lines()
        self.function = self.programs[name]
        self.records = records_of(module)
        self.tools = bind_tools(module, functions, self.programs)
        self.holdings: dict[Term, Holding | None] = {}
        self.ahead: dict[int, list[tuple[str, Operation]]] = {}
        self.adapters: dict[str, Operation] = {}
        self.clients: dict[str, Operation] = {}
        self.effects = Effects.of_module(module, self.programs)
        self.schemas: dict[Term, tuple[str, str]] = {}
        for operation in walk(tuple(self.programs.values())):
            self._note(operation)
            if operation.name == "program.gen":
                self._hold(operation["type"], constraint_of, pattern_of)

    def _note(self, operation: Operation) -> None:
        if operation.attribute("adapter"):
            self.adapters.setdefault(operation["adapter"], operation)
        if operation.attribute("client"):
            self.clients.setdefault(operation["client"], operation)
        for region in operation.regions:
            for head in region.operations:
                if head.attribute("ahead"):
                    self.ahead[id(head)] = followers(region, head)

    def _hold(self, type: Term, constraint_of: ConstraintOf, pattern_of: PatternOf) -> None:
        if type not in self.holdings:
            self.holdings[type] = holding_of(type, self.records, constraint_of, pattern_of)
            constraint = constraint_of(type, self.records)
            if constraint is not None and constraint[0] != "regex":
                self.schemas[type] = constraint

    def region(self, name: str) -> Region:
        """Return the body of a program."""
        return self.programs[name].regions[0]


def sampling_of(operation: Operation, key: int) -> dict[str, Any]:
    """Return the sampling fields of a gen; a seed only where something is drawn.

    As on our own engine, the seed is made from where the gen stands: branches draw apart.
    """
    given = {name: operation.attribute(name) for name in SAMPLING}
    fields = DEFAULTS | {name: value for name, value in given.items() if value is not None}
    fields.pop("seed", None)
    if fields["temperature"]:
        fields["seed"] = key & 0x7FFFFFFF
    return fields
