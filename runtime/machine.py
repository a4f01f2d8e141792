"""What all instances of a plan share: the function, its tools, its compiled constraints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.core import Module, Operation, Symbol, Term, walk
from ..ir.values import records_of
from ..ir.vocabulary import Tokenizer
from .constraint import ConstraintTable, Matcher
from .heal import HealTable
from .meter import Meter, PromptLog
from .stops import TokenBytes
from .tools import DEFAULT_TIMEOUT, UnboundTool
from .watch import Watch


@dataclass(frozen=True)
class BoundTool:
    """A declared tool with its Python function."""

    function: Callable[..., Any]
    returns: Term
    timeout: float


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
        self.programs = _reachable(plan, name)
        self.function = self.programs[name]
        self.tokenizer = tokenizer
        self.words = TokenBytes(tokenizer)
        self.records = records_of(plan)
        self.tools = _bind_tools(plan, functions, self.programs)
        self.constraints = ConstraintTable(tokenizer, vocab_size).add_module(plan)
        self.heals = HealTable(tokenizer, vocab_size)
        self.prompts = PromptLog()
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
        return Meter(self.prompts)

    def _matcher(self, decode: Operation, heal: str) -> Matcher | None:
        constraint: Symbol | None = decode.attribute("constraint")
        if constraint is None:
            return self.heals.start(heal) if heal else None
        included = decode.attribute("heal") is not None and constraint in self._regexes
        return self.constraints.start(constraint, "" if included else heal)


def stops_of(decode: Operation) -> tuple[str, ...] | re.Pattern[str]:
    """Return the stop strings of a gen, or its stop pattern."""
    stop = decode.attribute("stop") or ()
    if isinstance(stop, Term):
        return re.compile(str(stop.parameters[0]))
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _reachable(plan: Module, name: str) -> dict[str, Operation]:
    """Return a program and those that it calls, be it through others, by name."""
    found: dict[str, Operation] = {}
    todo = [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = plan.symbol(name)
            calls = (op for op in walk((found[name],)) if op.name == "program.call")
            todo += [operation["name"].name for operation in calls]
    return found


def _bind_tools(
    plan: Module, functions: Mapping[str, Callable[..., Any]], programs: Mapping[str, Operation]
) -> dict[str, BoundTool]:
    """Bind the tools that the programs call; raises UnboundTool."""
    used = {
        operation["name"].name: operation.span
        for operation in walk(tuple(programs.values()))
        if operation.name == "program.call_tool"
    }
    declared = {
        operation["name"].name: operation
        for operation in plan.operations
        if operation.name == "program.tool"
    }
    bound = {}
    for name, span in used.items():
        if name not in functions:
            raise UnboundTool(tool=name, span=span)
        tool = declared[name]
        timeout = tool.attribute("timeout")
        seconds = DEFAULT_TIMEOUT if timeout is None else float(timeout)
        bound[name] = BoundTool(functions[name], tool["returns"], seconds)
    return bound
