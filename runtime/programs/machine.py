"""What all instances of a plan share: the function, its tools, its compiled constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...ir.constraints.tables import ConstraintTables
from ...ir.constraints.token_table import TokenTable
from ...ir.core import Module, Operation, Symbol, thaw, walk
from ...ir.values import records_of
from ...ir.vocabulary import Tokenizer
from ..constraints.constraint import Constraints
from ..constraints.heal import HealTable
from ..constraints.matcher import Matcher
from ..constraints.stops import TokenBytes
from ..constraints.watch import Watch
from ..schedule.row_costs import Meter
from .bindings import bind_tools, reachable
from .effects import Effects
from .gens import Gen
from .lines import Lines
from .row_code import row_code
from .texts import Texts


class Machine:
    """A plan made ready to run: everything that takes time is done here, before any row."""

    def __init__(
        self,
        plan: Module,
        name: str,
        tokenizer: Tokenizer,
        vocab_size: int,
        functions: Mapping[str, Callable[..., Any]],
        tables: Mapping[str, TokenTable] | None = None,
    ) -> None:
        self.programs = reachable(plan, name)
        self.function = self.programs[name]
        self.tokenizer = tokenizer
        self.words = TokenBytes(tokenizer)
        self.records = records_of(plan)
        self.tools = bind_tools(plan, functions, self.programs)
        self.effects = Effects.of_module(plan, self.programs)
        self.constraints = Constraints(tokenizer, vocab_size).add_module(
            plan, _tables(plan, tokenizer) if tables is None else tables
        )
        self.heals = HealTable(tokenizer, vocab_size, _healed(self.programs.values()))
        self._gens: dict[int, Gen] = {}
        self._calls: dict[int, tuple[str, int]] = {}
        self.code = row_code(self.programs, name, self.effects)
        self.lines = Lines()
        self.texts = Texts(tokenizer)
        for operation in walk(tuple(self.programs.values())):
            if operation.name == "plan.decode":
                self.watch(self.gen(operation), "", None)  # compiles its stops

    def gen(self, decode: Operation) -> Gen:
        """Return what is known of a `plan.decode` of the programs."""
        found = self._gens.get(id(decode))
        if found is None:
            found = self._gens[id(decode)] = Gen.of(decode)
        return found

    def call(self, call: Operation) -> tuple[str, int]:
        """Return what names the samples of a program that is called, and the predicted time from
        its end to the caller's."""
        found = self._calls.get(id(call))
        if found is None:
            name = call["name"].name
            own = self.programs[name].attribute("critical") or 0
            after = max(0, (call.attribute("critical") or 0) - own)
            found = self._calls[id(call)] = f"call {name}", after
        return found

    def watch(self, gen: Gen, heal: str, listener: Callable[[str], None] | None) -> Watch | None:
        """Return what watches a gen, or None where nothing need be watched."""
        matcher = self._matcher(gen.operation, heal)
        if matcher is None and not gen.stops and listener is None:
            return None
        return Watch(self.words, matcher, gen.stops, listener, heal)

    def meter(self) -> Meter:
        """Return fresh counters for a row."""
        return Meter()

    def _matcher(self, decode: Operation, heal: str) -> Matcher | None:
        constraint: Symbol | None = decode.attribute("constraint")
        if constraint is None:
            return self.heals.start(heal) if heal else None
        return self.constraints.start(constraint, heal, decode.attribute("forced") or "")


def _healed(programs: Iterable[Operation]) -> set[str]:
    """Return what free gens may have to begin with: a space, or what the plan says."""
    return {
        operation.attribute("heal") or " "
        for operation in walk(tuple(programs))
        if operation.name == "plan.decode" and operation.attribute("constraint") is None
    }


def _tables(plan: Module, tokenizer: Tokenizer) -> dict[str, TokenTable]:
    """Compile the tables that a plan names: one read from text comes without them."""
    tables = ConstraintTables(tokenizer)
    for operation in plan.operations:
        if operation.name == "plan.constraint" and operation.attribute("table"):
            stops = tuple(operation.attribute("stop") or ())
            tables.find(operation["kind"], thaw(operation["source"]), stops)
    return tables.by_key
