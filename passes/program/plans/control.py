"""Control flow of a plan: streams that cross its borders are written first, left open."""

from __future__ import annotations

from dataclasses import replace

from ....ir.core import Operation, Region, Value, make
from ....ir.diagnostics import PassError
from ....ir.types import KV, STREAM
from ..roles import frame_of
from .ends import End
from .segments import StreamState
from .streams import Begun, StreamLowering

_REGION_NAMES = {"program.for": "plan.for", "program.while": "plan.while", "program.if": "plan.if"}


class OtherInLaterRounds(PassError):
    """A loop's message that a chat template writes in one way in the first round, and in another in
    those after it: a default system message before it, say. A loop's text is lowered once."""

    template = "the chat template begins this {role} message otherwise in later rounds of its loop"
    hint = 'begin a message before the loop, for example: system "..."'


class ControlLowering(StreamLowering):
    """Lowers for, while and if, besides what happens on one stream."""

    _ends: list[dict[str, StreamState]]
    """What streams are at the ends of regions that go on."""

    def _for(self, operation: Operation) -> None:
        self._control(operation)

    _while = _if = _for

    def _control(self, operation: Operation) -> None:
        inner_ops = tuple(op for region in operation.regions for op in region.operations)
        operands = tuple(self._operand(value) for value in operation.operands)
        visible = self._flush_used(inner_ops)
        carried = [self.streams.get(value.name) for value in operation.operands]
        if operation.name == "program.for":
            carried = carried[1:]
        begun, self._ends = len(self._lowering.begun), []
        regions = tuple(
            self._region(region, carried, visible, operation) for region in operation.regions
        )
        results = tuple(self._result(value) for value in operation.results)
        attributes = {"limit": operation.attribute("limit")}
        self._out.append(
            make(_REGION_NAMES[operation.name], *operands, results=results, regions=regions,
                 span=operation.span, **attributes)
        )  # fmt: skip
        self._bind_results(operation, results, carried)
        if operation.name != "program.if" and operation.attribute("limit") != 1:
            self._check_rounds(operation, carried, self._lowering.begun[begun:])

    def _check_rounds(
        self, loop: Operation, carried: list[StreamState | None], begun: list[Begun]
    ) -> None:
        """Refuse a message of a loop that reads otherwise after a round."""
        for position, first in enumerate(carried):
            after = self._yielded(loop, position)
            if first is None or after is None or after.ways <= first.ways:
                continue
            size = len(first.roles)
            for message, state in begun:
                inside = {way[size:] for way in state.ways if way[:size] == first.roles}
                later = [(*way, *since) for way in sorted(after.ways) for since in sorted(inside)]
                frame = frame_of(self._lowering.chat, state.roles, message)
                if self._written(message, later) - {frame}:
                    raise OtherInLaterRounds(role=message["role"], span=message.span)

    def _region(
        self,
        region: Region,
        carried: list[StreamState | None],
        visible: dict[str, StreamState],
        operation: Operation,
    ) -> Region:
        arguments: list[Value] = []
        streams = dict(visible)
        offset = len(region.arguments) - len(carried) if operation.name == "program.for" else 0
        for position, value in enumerate(region.arguments):
            if value.type != STREAM:
                arguments.append(value)
                continue
            kv = self._names.value("kv", KV)
            outer = carried[position - offset]
            assert outer is not None
            ends = (*outer.ends, End("", loop=(id(operation), position - offset)))
            streams[value.name] = replace(outer, kv=kv, pieces=(), sealed=False, ends=ends)
            arguments.append(kv)
        block = type(self)(self._lowering, streams)
        block.outer = frozenset(visible)
        body = block.lower(region.operations)
        if _yield_of(region) is not None:
            self._ends.append(block.streams)
        return Region(tuple(arguments), body)

    def _bind_results(
        self,
        operation: Operation,
        results: tuple[Value, ...],
        carried: list[StreamState | None],
    ) -> None:
        for position, (value, result) in enumerate(zip(operation.results, results, strict=True)):
            if value.type != STREAM:
                continue
            yielded = self._yielded(operation, position)
            state = yielded or (carried[position] if position < len(carried) else None)
            assert state is not None
            ways = [] if operation.name == "program.if" else [carried[position]]
            yields = filter(None, map(_yield_of, operation.regions))
            for end, streams in zip(yields, self._ends, strict=True):
                ways.append(streams.get(end.operands[position].name))
            joined = state.joined(filter(None, ways))
            self._lowering.ends.rounds[id(operation), position] = joined.ends
            self.streams[value.name] = replace(joined, kv=result, pieces=(), sealed=False)

    def _yielded(self, operation: Operation, position: int) -> StreamState | None:
        """Return the state that the last region to go on yields there (for its chat roles)."""
        yields = [found for found in map(_yield_of, operation.regions) if found is not None]
        if not yields:
            return None
        return self._ends[-1].get(yields[-1].operands[position].name)


def _yield_of(region: Region) -> Operation | None:
    """Return what a region ends in, if that is a yield."""
    last = region.operations[-1] if region.operations else None
    return last if last is not None and last.name == "program.yield" else None
