"""The chat messages of a program's streams: which have begun, and whether the last one is open."""

from __future__ import annotations

from ...ir.core import Operation, Region, Value, walk
from ...ir.diagnostics import ModelError
from ...ir.vocabulary import ChatFormat, Frame, Part

_ENDS = {"fork": "program.yield", "if": "program.yield", "inline": "program.leave"}


class Roles:
    """The roles of the messages of each stream, in order; a loop's are those of its first round."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[str, ...]] = {}
        self._open: set[str] = set()

    @staticmethod
    def of(function: Operation) -> Roles:
        """Return the roles of a program's streams."""
        roles = Roles()
        roles._region(function.regions[0])
        return roles

    def before(self, stream: Value) -> tuple[str, ...]:
        """Return the roles of the messages that a stream has begun."""
        return self._begun.get(stream.name, ())

    def open_in(self, stream: Value) -> str | None:
        """Return the role of the message that is open at a stream; None outside of messages."""
        return self._begun[stream.name][-1] if stream.name in self._open else None

    def markers(self, chat: ChatFormat | None, message: Operation) -> tuple[Part, ...]:
        """Return what the begin or the end of a message adds to its stream; without a chat format
        a begin adds its role in angle brackets."""
        begins, before = message.kind == "begin", self.before(message.operands[0])
        if chat is None:
            return (f"<{message['role']}>",) if begins else ()
        frame = frame_of(chat, before if begins else before[:-1], message)
        return frame.prefix if begins else frame.suffix

    def _region(self, region: Region) -> None:
        for operation in region.operations:
            self._operation(operation)

    def _operation(self, operation: Operation) -> None:
        kind = operation.name.partition(".")[2]
        if kind in {"literal", "append", "gen", "select", "join"}:
            self._same(operation.results[0], operation.operands[0])
        elif kind == "begin":
            stream = operation.result.name
            self._begun[stream] = (*self.before(operation.operands[0]), operation["role"])
            self._open.add(stream)
        elif kind == "end":
            self._begun[operation.result.name] = self.before(operation.operands[0])
        elif kind in {"fork", "inline"}:
            self._same(operation.regions[0].arguments[0], operation.operands[0])
            self._region(operation.regions[0])
            self._results(operation)
        elif kind == "for":
            self._carry(operation.regions[0].arguments[1:], operation.operands[1:])
            self._region(operation.regions[0])
            self._looped(operation, operation.operands[1:])
        elif kind == "while":
            for region in operation.regions:
                self._carry(region.arguments, operation.operands)
                self._region(region)
            self._looped(operation, operation.operands)
        elif kind == "if":
            for region in operation.regions:
                self._region(region)
            self._results(operation)

    def _looped(self, operation: Operation, carried: tuple[Value, ...]) -> None:
        """Take the roles of a loop's results from the end of a round, where it has one."""
        last = operation.regions[-1].operations[-1:]
        goes_on = last and last[0].name == "program.yield"
        self._carry(operation.results, last[0].operands if goes_on else carried)

    def _results(self, operation: Operation) -> None:
        """Take the roles of results from what a region gives, the last one that gives any."""
        end = _ENDS[operation.kind]
        inner = [op for op in walk(_operations(operation)) if op.name == end]
        if operation.name != "program.inline":
            last = [region.operations[-1] for region in operation.regions if region.operations]
            inner = [op for op in last if op.name == end]
        for terminator in inner:
            self._carry(operation.results, terminator.operands)

    def _carry(self, values: tuple[Value, ...], sources: tuple[Value, ...]) -> None:
        for value, source in zip(values, sources, strict=False):
            self._same(value, source)

    def _same(self, value: Value, source: Value) -> None:
        self._begun[value.name] = self.before(source)
        self._open.discard(value.name)
        self._open |= {value.name} if source.name in self._open else set()


def frame_of(chat: ChatFormat, roles: tuple[str, ...], message: Operation) -> Frame:
    """Return the markers of a message, of which `message` is the begin or the end, after messages
    of `roles`; a template's refusal is raised with the message's place."""
    try:
        return chat.frame(roles, message["role"])
    except ModelError as error:
        raise type(error)(span=message.span, **error.fields) from None


def _operations(operation: Operation) -> tuple[Operation, ...]:
    return tuple(inner for region in operation.regions for inner in region.operations)
