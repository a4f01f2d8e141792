"""Constant folding: host values, templates, pure tools, decided branches, loops over few elements.

What is known when compiling becomes text that the prefix tree sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir.core import Module, Names, Operation, Region, Value, make, walk
from ...ir.dialects.program import EFFECTS, VALUE_NAMES
from ...ir.source import Span
from ..manager import Context, ProgramPass
from .fold_loops import Rounds
from .fold_values import Knowledge, constant, pieces, shortened

_EXITS = {"program.return", "program.leave"}


@dataclass(frozen=True)
class FoldConstants(ProgramPass):
    """Fold what is known: host values, templates, pure tools, decided ifs, short loops.

    A loop over at most `rounds` known elements is unrolled where its copies have at most
    `operations` operations together; a constant has at most `largest` characters and elements.
    """

    rounds: int = 16
    operations: int = 512
    largest: int = 1 << 16

    name: ClassVar[str] = "fold-constants"
    ensures: ClassVar[tuple[str, ...]] = ("folded",)
    keeps: ClassVar[tuple[str, ...]] = ()

    def run(self, module: Module, context: Context) -> Module:
        """Return the folded module."""
        pure = {
            op["name"].name
            for op in module.operations
            if op.name == "program.tool" and op.attribute("pure")
        }
        names = Names.of(module)
        return Module(
            tuple(
                _Folder(self, names, pure, context).function(operation)
                if operation.name == "program.func"
                else operation
                for operation in module.operations
            )
        )


class _Folder:
    """Folds one function in the order of its text, so that operands are known before uses."""

    def __init__(
        self, options: FoldConstants, names: Names, pure: set[str], context: Context
    ) -> None:
        self._rounds = Rounds(options.rounds, options.operations, names)
        self._names = names
        self._pure = pure
        self._context = context
        self._knowledge = Knowledge(options.largest)
        self._replaced: dict[str, Value] = {}
        self._told: set[tuple[object, ...]] = set()

    def function(self, operation: Operation) -> Operation:
        """Return a function, or an operation inside it, with its regions folded."""
        regions = tuple(
            replace(region, operations=self._list(region.operations))
            for region in operation.regions
        )
        return replace(operation, regions=regions)

    def _list(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        out: list[Operation] = []
        self._place(operations, out)
        return tuple(out)

    def _place(self, operations: tuple[Operation, ...], out: list[Operation]) -> None:
        """Append what a list folds to, up to where the region ends."""
        for operation in operations:
            if out and ends(out[-1]):
                self._did("what follows is never reached", operation)
                return
            operands = tuple(self._current(value) for value in operation.operands)
            self._operation(replace(operation, operands=operands), out)

    def _operation(self, operation: Operation, out: list[Operation]) -> None:
        kind = operation.name.partition(".")[2]
        if operation.name in VALUE_NAMES:
            self._value(operation, out)
        elif kind in {"append", "if", "for", "while", "inline", "literal"}:
            getattr(self, "_" + kind)(operation, out)
        else:
            self._emit(self.function(operation), out)

    def _emit(self, operation: Operation, out: list[Operation]) -> None:
        self._knowledge.note(operation)
        out.append(operation)

    def _current(self, value: Value) -> Value:
        return self._replaced.get(value.name, value)

    def _stand_in(self, results: tuple[Value, ...], values: tuple[Value, ...]) -> None:
        """Use `values` wherever the results would be used."""
        for result, value in zip(results, values, strict=True):
            self._replaced[result.name] = self._current(value)

    def _did(self, message: str, operation: Operation) -> None:
        """Note what was done, once for each place: unrolled rounds repeat it."""
        key = (message, operation.span)
        if key not in self._told:
            self._told.add(key)
            self._context.did(message, operation.span)

    # Values and text.

    def _value(self, operation: Operation, out: list[Operation]) -> None:
        tool = operation.name == "program.call_tool"
        if tool and operation["name"].name not in self._pure:
            self._emit(operation, out)
            return
        folded = self._knowledge.folded(operation, self._context)
        if isinstance(folded, Value):
            self._stand_in(operation.results, (folded,))
            return
        if folded.name == "program.constant" != operation.name:
            what = f"{operation['name'].name} was called: it gives" if tool else "known now:"
            value = self._knowledge_of(folded)
            self._did(f"{what} {shortened(value)}", operation)
        self._emit(folded, out)

    def _knowledge_of(self, operation: Operation) -> object:
        self._knowledge.note(operation)
        return self._knowledge.of(operation.result)

    def _literal(self, operation: Operation, out: list[Operation]) -> None:
        if operation["text"]:
            self._emit(operation, out)
        else:
            self._stand_in(operation.results, operation.operands)

    def _append(self, operation: Operation, out: list[Operation]) -> None:
        """Append the parts of a template one by one, so that its texts are literals."""
        stream, value = operation.operands
        parts = [part for part in pieces(self._knowledge, value) if part != ""]
        if parts == [value]:
            self._emit(operation, out)
            return
        if not parts:
            self._stand_in(operation.results, (stream,))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            following = operation.result if last else self._names.value("s", operation.result.type)
            self._emit(_appended(stream, part, following, operation.span), out)
            stream = following

    # Control flow.

    def _if(self, operation: Operation, out: list[Operation]) -> None:
        condition = self._knowledge.of(operation.operands[0])
        if isinstance(condition, bool):
            self._did(f"this condition is always {str(condition).lower()}", operation)
            self._splice(operation.regions[0 if condition else 1], operation, out)
            return
        folded = self.function(operation)
        same = _same_yields(folded)
        if same is not None:
            self._did("both sides of this condition are the same", operation)
            self._stand_in(operation.results, same)
            return
        if ends(folded):
            folded = replace(folded, results=())
        self._emit(folded, out)

    def _splice(self, region: Region, operation: Operation, out: list[Operation]) -> None:
        """Append a region's operations; what it yields stands for the operation's results."""
        self._place(region.operations, out)
        last = out[-1] if out else None
        if last is not None and last.name == "program.yield":
            out.pop()
            self._stand_in(operation.results, last.operands)

    def _for(self, operation: Operation, out: list[Operation]) -> None:
        items, *carried = operation.operands
        elements = self._knowledge.elements(items)
        if elements is not None and self._rounds.few(operation, elements, self._context):
            self._did(f"this loop of {len(elements)} rounds is unrolled", operation)
            self._unroll(operation, elements, tuple(carried), out)
            return
        self._emit(self.function(operation), out)

    def _unroll(
        self,
        operation: Operation,
        elements: list[object] | tuple[Value, ...],
        carried: tuple[Value, ...],
        out: list[Operation],
    ) -> None:
        region = operation.regions[0]
        for element in elements:
            if not isinstance(element, Value):
                element = self._constant(region.arguments[0], element, operation, out)
            body = self._rounds.copy(region, (element, *carried))
            self._place(body, out)
            if out[-1].name != "program.yield":
                return  # this round ends the program
            carried = out.pop().operands
        self._stand_in(operation.results, carried)

    def _constant(
        self, like: Value, value: object, operation: Operation, out: list[Operation]
    ) -> Value:
        result = self._names.value(like.name, like.type)
        self._emit(constant(result, value, operation.span), out)
        return result

    def _while(self, operation: Operation, out: list[Operation]) -> None:
        if self._never_runs(operation):
            self._did("this loop never runs", operation)
            self._stand_in(operation.results, operation.operands)
            return
        self._emit(self.function(operation), out)

    def _never_runs(self, operation: Operation) -> bool:
        """Whether the first test is known to fail, with nothing done on the way."""
        if operation["limit"] == 0:
            return True
        remarks, told = len(self._context.remarks), set(self._told)
        *before, last = self._list(self._rounds.copy(operation.regions[0], operation.operands))
        del self._context.remarks[remarks:]
        self._told = told
        host = all(each.name in VALUE_NAMES - EFFECTS for each in before)
        return host and self._knowledge.of(last.operands[0]) is False

    def _inline(self, operation: Operation, out: list[Operation]) -> None:
        """Put an inlined program in place where only its end leaves it."""
        folded = self.function(operation)
        region = folded.regions[0]
        leaves = [each for each in walk(region.operations) if each.name == "program.leave"]
        returns = any(each.name == "program.return" for each in walk(region.operations))
        if len(leaves) != 1 or leaves[0] != region.operations[-1] or returns:
            self._emit(folded, out)
            return
        self._did(f"inlined {operation['name'].name}: only its end leaves it", operation)
        (stream,) = region.arguments
        self._stand_in((stream,), folded.operands)
        for inner in region.operations[:-1]:
            out.append(self._renamed(inner))
        self._stand_in(folded.results, leaves[0].operands)

    def _renamed(self, operation: Operation) -> Operation:
        """Return an operation that was folded before a value of it got a stand-in."""
        operands = tuple(self._current(value) for value in operation.operands)
        regions = tuple(
            replace(region, operations=tuple(map(self._renamed, region.operations)))
            for region in operation.regions
        )
        renamed = replace(operation, operands=operands, regions=regions)
        self._knowledge.note(renamed)
        return renamed


def ends(operation: Operation) -> bool:
    """Whether nothing after the operation is reached."""
    if operation.name in _EXITS or operation.name in {"program.yield", "program.condition"}:
        return True
    return operation.name == "program.if" and all(
        bool(region.operations) and exits(region.operations[-1]) for region in operation.regions
    )


def _same_yields(operation: Operation) -> tuple[Value, ...] | None:
    """Return what both regions of an if yield, where they do nothing else; else None."""
    then, otherwise = (region.operations for region in operation.regions)
    if then != otherwise or len(then) > 1 or any(each.name != "program.yield" for each in then):
        return None
    return then[0].operands if then else ()


def _appended(stream: Value, part: str | Value, following: Value, span: Span | None) -> Operation:
    if isinstance(part, str):
        return make("program.literal", stream, results=(following,), span=span, text=part)
    return make("program.append", stream, part, results=(following,), span=span)


def exits(operation: Operation) -> bool:
    """Whether the operation ends the program, or the inlined one."""
    return operation.name in _EXITS or (operation.name == "program.if" and ends(operation))
