"""What all instances of a plan share: the function, its tools, its compiled constraints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..ir.core import Module, Operation, Symbol
from ..ir.values import records_of
from ..ir.vocabulary import Tokenizer
from .bindings import bind_tools, reachable, stops_of
from .constraint import ConstraintTable, Matcher
from .effects import Effects
from .heal import HealTable
from .meter import Meter
from .stops import TokenBytes
from .watch import Watch


class Machine:
    """A plan made ready to run: everything that takes time is done here, before any row."""

    def __init__(
        self,
        plan: Module,
        name: str,
        tokenizer: Tokenizer,
        vocab_size: int,
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.programs = reachable(plan, name)
        self.function = self.programs[name]
        self.tokenizer = tokenizer
        self.words = TokenBytes(tokenizer)
        self.records = records_of(plan)
        self.tools = bind_tools(plan, functions, self.programs)
        pure = [op["name"].name for op in plan.operations if op.attribute("pure")]
        self.effects = Effects(self.programs, frozenset(pure))
        self.constraints = ConstraintTable(tokenizer, vocab_size).add_module(plan)
        self.heals = HealTable(tokenizer, vocab_size)
        self._regexes = {
            operation["name"]
            for operation in plan.operations
            if operation.name == "plan.constraint" and operation["kind"] == "regex"
        }

    def watch(
        self, decode: Operation, heal: str, listener: Callable[[str], None] | None
    ) -> Watch | None:
        """Return what watches a `plan.decode`, or None where nothing need be watched."""
        stops = stops_of(decode)
        matcher = self._matcher(decode, heal)
        if matcher is None and not stops and listener is None:
            return None
        return Watch(self.words, matcher, stops, listener, heal)

    def meter(self) -> Meter:
        """Return fresh counters for a row."""
        return Meter()

    def _matcher(self, decode: Operation, heal: str) -> Matcher | None:
        constraint: Symbol | None = decode.attribute("constraint")
        if constraint is None:
            return self.heals.start(heal) if heal else None
        included = decode.attribute("heal") is not None and constraint in self._regexes
        return self.constraints.start(constraint, "" if included else heal)
