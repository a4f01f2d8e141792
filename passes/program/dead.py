"""Dead code: values that nothing uses, calls and branches whose results nothing uses, programs
that nothing runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Operation, Symbol, Value, walk
from ...ir.dialects.program import EFFECTS, VALUE_NAMES
from ..manager import Context, ProgramPass
from ..rewrite import uses

PURE = VALUE_NAMES - EFFECTS
"""Host operations without effects: they go when unused."""

_HOST_CONTROL = {"program.if", "program.for", "program.while"}
_TERMINATORS = {"program.yield", "program.condition"}

_KNOWN_ENDS = {"program.gen", "program.select"}
"""Operations after which a stream holds no text that is not yet tokens."""


@dataclass(frozen=True)
class DropDead(ProgramPass):
    """Remove host values, calls, forks and scores that nothing uses, and programs nothing runs.

    A gen is kept, for what it appends is seen; so is a fork of the program's own stream, whose
    value the run's result names, and whatever may call a tool that is not pure. What goes draws
    no sample, so where a later call or fork counts it for its samples, it stays.
    """

    name: ClassVar[str] = "drop-dead"

    def run(self, module: Module, context: Context) -> Module:
        """Return the module without what is dead."""
        module = _drop_programs(module, context)
        told: set[str] = set()
        while True:
            after = Module(
                tuple(
                    _Sweep(module, operation, context, told).swept()
                    if operation.name == "program.func"
                    else operation
                    for operation in module.operations
                )
            )
            if after == module:
                return after
            module = after


def drop_values(module: Module, pure_tools: frozenset[str] = frozenset()) -> Module:
    """Return the module without host values that nothing uses, and host control around such."""
    while True:
        counted = uses(module.operations)
        after = Module(_kept(module.operations, counted, pure_tools))
        if after == module:
            return after
        module = after


def _kept(
    operations: Iterable[Operation], counted: Counter[str], pure_tools: frozenset[str]
) -> tuple[Operation, ...]:
    return tuple(
        _with_regions(operation, counted, pure_tools) if operation.regions else operation
        for operation in operations
        if any(counted[value.name] for value in operation.results)
        or not _only_host(operation, pure_tools)
    )


def _with_regions(
    operation: Operation, counted: Counter[str], pure_tools: frozenset[str]
) -> Operation:
    regions = tuple(
        replace(region, operations=_kept(region.operations, counted, pure_tools))
        for region in operation.regions
    )
    return replace(operation, regions=regions)


def _only_host(operation: Operation, pure_tools: frozenset[str]) -> bool:
    """Whether an operation, with all inside it, does nothing but give values."""
    if operation.name in _HOST_CONTROL:
        return all(
            inner.name in _TERMINATORS or _only_host(inner, pure_tools)
            for region in operation.regions
            for inner in region.operations
        )
    return operation.name in PURE or (
        operation.name == "program.call_tool" and operation["name"].name in pure_tools
    )


def _pure_tools(module: Module) -> frozenset[str]:
    tools = (op for op in module.operations if op.name == "program.tool")
    return frozenset(op["name"].name for op in tools if op.attribute("pure"))


def _drop_programs(module: Module, context: Context) -> Module:
    """Drop programs and tools that the entry does not reach, where the entry is known."""
    names = {op["name"].name for op in module.operations if op.name == "program.func"}
    if context.entry is None or context.entry not in names:
        return module
    reached = _reached(module, context.entry)
    kept = []
    for operation in module.operations:
        known = operation.name in {"program.func", "program.tool"}
        if known and operation["name"].name not in reached:
            what = operation.name.replace("func", "program").partition(".")[2]
            name = operation["name"].name
            context.did(f"{what} {name} is not used by {context.entry}", operation.span)
        else:
            kept.append(operation)
    return Module(tuple(kept))


def _reached(module: Module, name: str) -> set[str]:
    """Return the programs and tools that a program may run, itself among them."""
    found, todo = {name}, [name]
    while todo:
        function = module.symbol(todo.pop())
        if function.name != "program.func":
            continue
        for operation in walk((function,)):
            if operation.name in EFFECTS and operation["name"].name not in found:
                found.add(operation["name"].name)
                todo.append(operation["name"].name)
    return found


class _Sweep:
    """One sweep over a function for model calls whose results nothing uses."""

    def __init__(
        self, module: Module, function: Operation, context: Context, told: set[str]
    ) -> None:
        self._told = told
        self._module = module
        self._function = function
        self._context = context
        self._pure = _pure_tools(module)
        self._uses = uses((function,))
        self._sites = Counter(_site(each) for each in walk((function,)))
        self._fixed: set[str] = set()
        for operation in walk((function,)):
            ends = operation.results if operation.name in _KNOWN_ENDS else ()
            inner = operation.regions[0].arguments if operation.name == "program.fork" else ()
            self._fixed |= {value.name for value in (*ends, *inner)}

    def swept(self) -> Operation:
        """Return the function without its dead calls, forks, scores and values."""
        function = self._inside(self._function, trunk=True)
        return drop_values(Module((function,)), self._pure).operations[0]

    def _inside(self, operation: Operation, trunk: bool) -> Operation:
        trunk = trunk and operation.name != "program.fork"
        regions = tuple(
            replace(region, operations=tuple(self._kept(region.operations, trunk)))
            for region in operation.regions
        )
        return replace(operation, regions=regions)

    def _kept(self, operations: Iterable[Operation], trunk: bool) -> Iterable[Operation]:
        for operation in operations:
            unused = not any(self._uses[value.name] for value in operation.results)
            if not (unused and self._removable(operation, trunk)):
                yield self._inside(operation, trunk) if operation.regions else operation

    def _removable(self, operation: Operation, trunk: bool) -> bool:
        kind = operation.name.partition(".")[2]
        if kind not in {"call", "fork", "score"}:
            return False
        reason = self._reason_against(operation, trunk)
        named = operation.attribute("name")
        name = named.name if isinstance(named, Symbol) else named
        what = f"{kind} {name}" if name else kind
        if reason:
            remark = f"{what}: nothing uses its value, but {reason}"
            if f"{remark} {operation.span}" not in self._told:
                self._told.add(f"{remark} {operation.span}")
                self._context.left(remark, operation.span)
            return False
        self._context.did(f"{what} is gone: nothing uses its value", operation.span)
        return True

    def _reason_against(self, operation: Operation, trunk: bool) -> str:
        if operation.name == "program.fork" and trunk:
            return "the run's result names it"
        if self._calls_tools(operation):
            return "it may call a tool"
        site = _site(operation)
        if site is not None and self._sites[site] > 1:
            return "the samples of its namesakes are counted from it"
        if operation.name != "program.call" and not self._ends_here(operation.operands[0]):
            return "it ends a token of the text before it"
        return ""

    def _ends_here(self, stream: Value) -> bool:
        """Whether the tokens before this point are the same without it."""
        return stream.name in self._fixed or self._uses[stream.name] == 1

    def _calls_tools(self, operation: Operation) -> bool:
        """Whether a call or fork may run a tool that is not pure."""
        called: set[str] = set()
        for inner in walk((operation,)):
            if inner.name == "program.call_tool":
                called.add(inner["name"].name)
            elif inner.name == "program.call":
                called |= _reached(self._module, inner["name"].name)
        tools = {op["name"].name for op in self._module.operations if op.name == "program.tool"}
        return bool(called & tools - self._pure)


def _site(operation: Operation) -> str | None:
    """Return the name that counts an operation's samples in its frame."""
    if operation.name == "program.call":
        return f"call {operation['name'].name}"
    if operation.name in {"program.fork", "program.gen", "program.select"}:
        return operation["name"]
    return None
