"""What a program names outside of itself: other programs, Python tools, stop patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...ir.core import Module, Operation, Term, walk
from .tools import DEFAULT_TIMEOUT, UnboundTool


@dataclass(frozen=True)
class BoundTool:
    """A declared tool with its Python function."""

    function: Callable[..., Any]
    returns: Term
    timeout: float


def stops_of(decode: Operation) -> tuple[str, ...] | re.Pattern[str]:
    """Return the stop strings of a gen, or its stop pattern."""
    stop = decode.attribute("stop") or ()
    if isinstance(stop, Term):
        return re.compile(str(stop.parameters[0]))
    return (stop,) if isinstance(stop, str) else tuple(stop)


def reachable(plan: Module, name: str) -> dict[str, Operation]:
    """Return a program and those that it calls, be it through others, by name: each before all that
    it calls."""
    found: dict[str, Operation] = {}
    done: list[str] = []
    todo = [(name, False)]
    while todo:
        name, called = todo.pop()
        if called:
            done.append(name)
        elif name not in found:
            found[name] = plan.symbol(name)
            calls = (op for op in walk((found[name],)) if op.name == "program.call")
            todo += [(name, True), *((operation["name"].name, False) for operation in calls)]
    return {name: found[name] for name in reversed(done)}


def bind_tools(
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
