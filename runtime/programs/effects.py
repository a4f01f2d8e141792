"""Which operations may do more than give a value: tools are opaque, so their order is kept."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.core import Module, Operation, walk


class Effects:
    """Says of an operation whether it, or a program that it calls, may call a tool with effects.

    A tool that is declared pure has none.
    """

    def __init__(self, programs: Mapping[str, Operation], pure: frozenset[str]) -> None:
        self._programs = programs
        self._pure = pure
        self._known: dict[int, bool] = {}

    @staticmethod
    def of_module(module: Module, programs: dict[str, Operation]) -> Effects:
        """Return those of a module's programs, each before all that it calls, by which of its tools
        are pure."""
        pure = (op for op in module.operations if op.attribute("pure"))
        effects = Effects(programs, frozenset(op["name"].name for op in pure))
        for program in reversed(programs.values()):  # the other way round, calls nest too deeply
            effects.of(program)
        return effects

    def of(self, operation: Operation) -> bool:
        """Return whether an operation of the plan may have effects."""
        known = self._known.get(id(operation))
        if known is None:
            self._known[id(operation)] = (
                True  # programs that call each other are not looked through
            )
            known = self._known[id(operation)] = any(map(self._itself, walk((operation,))))
        return known

    def _itself(self, operation: Operation) -> bool:
        if operation.name == "program.call_tool":
            return operation["name"].name not in self._pure
        if operation.name == "program.call":
            return self.of(self._programs[operation["name"].name])
        return False
