"""Forks, joins and inlined programs of a plan: one stream becomes several, or another's body."""

from __future__ import annotations

from dataclasses import replace

from ....ir.core import Operation, Region, make
from ....ir.dialects.program import VALUE_NAMES
from ....ir.types import KV, list_of
from ..roles import frame_of
from .control import ControlLowering
from .model_calls import always_calls


class BlockLowering(ControlLowering):
    """Lowers a list of operations, with the states of the streams it can see."""

    def _join(self, operation: Operation) -> None:
        streams, points = operation.operands
        kvs, state = self._branches[streams.name]
        kv = self._names.value("kv", KV)
        results = (kv, operation.results[1])
        self._out.append(
            make("plan.join", kvs, points, results=results, span=operation.span,
                 how=operation["how"])
        )  # fmt: skip
        self.streams[operation.results[0].name] = replace(state, kv=kv, pieces=(), sealed=False)

    def _fork(self, operation: Operation) -> None:
        stream = operation.operands[0]
        state = self._flush(self.streams[stream.name], closing=True)
        state = state.closed(f"fork {operation['name']}")
        region = operation.regions[0]
        self.streams[stream.name] = state
        kv = self._names.value("kv", KV)
        outer = self._flush_used(region.operations)
        inner = outer | {region.arguments[0].name: replace(state, kv=kv)}
        block = type(self)(self._lowering, inner)
        body = block.lower(region.operations)
        results = operation.results
        if len(results) == 2:
            kvs = self._names.value("branches", list_of(KV))
            last = block.streams[region.operations[-1].operands[1].name]
            self._branches[results[1].name] = kvs, last
            results = (results[0], kvs)
        self._out.append(
            make(
                "plan.fork", state.kv, operation.operands[1], results=results,
                span=operation.span, name=operation["name"], prefix=operation.attribute("prefix"),
                shared=self._is_shared(operation) or None,
                regions=(Region((kv, *region.arguments[1:]), body),),
            )
        )  # fmt: skip

    def _is_shared(self, operation: Operation) -> bool:
        """Whether every branch of a fork that may have two certainly reads its prefix."""
        context, name, span = self._lowering.context, operation["name"], operation.span
        count = self._lowering.constants.get(operation.operands[1].name)
        width = len(count) if isinstance(count, tuple) else count
        if isinstance(width, int) and width < 2:
            context.left(f"fork {name}: {width} branch shares nothing", span)
            return False
        region = operation.regions[0]
        why = ""
        if operation.operands[0].name in self.outer:  # its kv is used again outside of here
            why = "it may run not at all, or again"
        elif not self._adds_text(region, self.streams[operation.operands[0].name].roles):
            why = "its branches may generate at once"
        elif not always_calls(region, self._lowering.records):
            why = "a branch may never read it"
        if why:
            context.left(f"fork {name}: each branch's memory counts its prefix: {why}", span)
        return not why

    def _adds_text(self, region: Region, roles: tuple[str, ...]) -> bool:
        """Whether a branch certainly has a token of its own before it calls the model."""
        for operation in region.operations:
            if operation.name == "program.literal" and operation["text"].strip(" "):
                return True
            if operation.name == "program.begin":
                return bool(frame_of(self._lowering.chat, roles, operation).prefix)
            if operation.name not in VALUE_NAMES | {"program.literal", "program.append"}:
                return False
        return False

    def _inline(self, operation: Operation) -> None:
        region = operation.regions[0]
        before = self._operand(operation.operands[0])
        state = self.streams[operation.operands[0].name]
        kv, result = self._names.value("kv", KV), self._names.value("kv", KV)
        inner = self._flush_used(region.operations)
        inner[region.arguments[0].name] = replace(state, kv=kv, sealed=False)
        outer, self._lowering.left = self._lowering.left, []
        body = type(self)(self._lowering, inner).lower(region.operations)
        ways, self._lowering.left = self._lowering.left, outer
        self._out.append(
            make(
                "plan.inline", before, results=(result, operation.results[1]),
                span=operation.span, name=operation["name"], regions=(Region((kv,), body),),
            )
        )  # fmt: skip
        left = ways[-1].joined(ways) if ways else state
        self.streams[operation.results[0].name] = replace(left, kv=result, sealed=False)

    def _leave(self, operation: Operation) -> None:
        stream, value = operation.operands
        kv = self._operand(stream)
        self._lowering.left.append(self.streams[stream.name])
        self._out.append(make("plan.leave", kv, value, span=operation.span))
