"""Program IR to plan IR: streams become kv handles, texts become tokens, gens become decodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...ir.core import Module, Names, Operation, Region, Symbol, Value, make, walk
from ...ir.diagnostics import PassError
from ...ir.program import SAMPLING, VALUE_NAMES, WHO
from ...ir.types import KV, STREAM, list_of
from ..manager import EVERYTHING, Context
from .segments import SegmentWriter, StreamState
from .select_trie import option_tokens

_TERMINATORS = {"program.yield": "plan.yield", "program.condition": "plan.condition"}
_REGION_NAMES = {"program.for": "plan.for", "program.while": "plan.while", "program.if": "plan.if"}
_DECLARATIONS = {"program.record", "program.tool"}


class NoVocabulary(PassError):
    """Lowering to a plan without the model's tokenizer."""

    template = "a plan holds token ids, so it needs a model's tokenizer and chat format"
    hint = "name a model, for example --model tiny-dense"


@dataclass(frozen=True)
class LowerToPlan:
    """Lower every `program.func` to a `plan.func`.

    Runs of text known now are encoded now; a run that holds a value is encoded when the value is
    known, together with the texts that touch it. A fork first makes its kv resident, so that all
    branches share it. The space before a gen is healed: the generation begins with it.
    """

    name: ClassVar[str] = "lower-to-plan"
    reads: ClassVar[tuple[str, ...]] = ("program",)
    writes: ClassVar[tuple[str, ...]] = ("plan",)
    requires: ClassVar[tuple[str, ...]] = ("canonical",)
    ensures: ClassVar[tuple[str, ...]] = ("planned",)
    keeps: ClassVar[tuple[str, ...]] = EVERYTHING

    def run(self, module: Module, context: Context) -> Module:
        """Return the plan module; declarations stay, constraints are added before functions."""
        if context.tokenizer is None or context.chat is None:
            raise NoVocabulary()
        lowering = _Lowering(module, context)
        functions = [
            operation if operation.name in _DECLARATIONS else lowering.function(operation)
            for operation in module.operations
        ]
        declared = [op for op in functions if op.name in _DECLARATIONS]
        planned = [op for op in functions if op.name not in _DECLARATIONS]
        return Module((*declared, *lowering.constraints.values(), *planned))


class _Lowering:
    """State of one module's lowering."""

    def __init__(self, module: Module, context: Context) -> None:
        assert context.tokenizer is not None and context.chat is not None
        self.context = context
        self.constants = {
            op.result.name: op["value"] for op in module.walk() if op.name == "program.constant"
        }
        self.tokenizer = context.tokenizer
        self._chat = context.chat
        self._names = Names.of(module)
        self._writer = SegmentWriter(context.tokenizer, self._names)
        self._records = {
            op["name"].name: op for op in module.operations if op.name == "program.record"
        }
        self.constraints: dict[tuple[str, str], Operation] = {}
        self.left: StreamState | None = None

    def function(self, operation: Operation) -> Operation:
        region = operation.regions[0]
        stream, *parameters = region.arguments
        kv = self._names.value("kv", KV)
        root = StreamState(kv).plus(*self._chat.start(), span=operation.span)
        body = _Block(self, {stream.name: root}).lower(region.operations)
        attributes = {
            key: operation.attribute(key) for key in ("name", "parameters", "returns", "doc")
        }
        return make(
            "plan.func", span=operation.span, regions=(Region((kv, *parameters), body),),
            model=self.context.model_name or None, **attributes,
        )  # fmt: skip

    def constraint(self, operation: Operation, heal: str) -> tuple[Symbol | None, str]:
        """Return the constraint of a gen's type, declared once, and the heal text it allows."""
        if self.context.constraint_of is None:
            return None, heal
        found = self.context.constraint_of(operation["type"], self._records)
        if found is None:
            return None, heal
        kind, source = found
        if kind == "regex":
            source = heal + source
        key = (kind, source)
        if key not in self.constraints:
            self.constraints[key] = make(
                "plan.constraint", span=operation.span,
                name=Symbol(f"constraint_{len(self.constraints)}"), kind=kind, source=source,
            )  # fmt: skip
        return self.constraints[key]["name"], heal


class _Block:
    """Lowers one list of operations, with the states of the streams it can see."""

    def __init__(self, lowering: _Lowering, streams: dict[str, StreamState]) -> None:
        self._lowering = lowering
        self._names = lowering._names
        self._writer = lowering._writer
        self.streams = dict(streams)
        self._newest: str | None = None
        self._out: list[Operation] = []
        self._branches: dict[str, tuple[Value, StreamState]] = {}

    def lower(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        for operation in operations:
            self._lower(operation)
        return tuple(self._out)

    def _lower(self, operation: Operation) -> None:
        name = operation.name
        if name in VALUE_NAMES:
            self._out.append(operation)
        elif name in _REGION_NAMES:
            self._control(operation)
        elif name in _TERMINATORS:
            operands = tuple(self._operand(value) for value in operation.operands)
            self._out.append(make(_TERMINATORS[name], *operands, span=operation.span))
        else:
            getattr(self, "_" + name.partition(".")[2])(operation)
        for value in operation.results:
            self._newest = value.name if value.type == STREAM else self._newest

    # Text: gathered, not yet written.

    def _literal(self, operation: Operation) -> None:
        self._append_pieces(operation, operation["text"])

    def _append(self, operation: Operation) -> None:
        self._append_pieces(operation, operation.operands[1])

    def _append_pieces(self, operation: Operation, *pieces: str | Value | int) -> None:
        state = self.streams[operation.operands[0].name]
        self.streams[operation.result.name] = state.plus(*pieces, span=operation.span)

    def _begin(self, operation: Operation) -> None:
        state = self.streams[operation.operands[0].name]
        role = operation["role"]
        frame = self._lowering._chat.frame(state.roles, role)
        opened = state.plus(*frame.prefix, span=operation.span)
        self.streams[operation.result.name] = replace(
            opened, roles=(*state.roles, role), suffix=frame.suffix
        )

    def _end(self, operation: Operation) -> None:
        state = self.streams[operation.operands[0].name]
        closed = state.plus(*state.suffix, span=operation.span)
        self.streams[operation.result.name] = replace(closed, suffix=())

    # The model reads the stream: gathered text is written.

    def _gen(self, operation: Operation) -> None:
        stream, value = operation.results
        state, heal = self._writer.heal(self.streams[operation.operands[0].name])
        state = self._writer.flush(state, self._out.append, closing=True)
        constraint, heal = self._lowering.constraint(operation, heal)
        kv = self._names.value("kv", KV)
        kept = {
            key: operation.attribute(key) for key in ("stop", "logprobs", "prefix", *SAMPLING, *WHO)
        }
        self._out.append(
            make(
                "plan.decode", state.kv, results=(kv, value), span=operation.span,
                name=operation["name"], type=operation["type"],
                max_tokens=operation["max_tokens"], constraint=constraint, heal=heal or None,
                ends=self._lowering.tokenizer.end_ids, **kept,
            )
        )  # fmt: skip
        self.streams[stream.name] = state.at(kv)

    def _select(self, operation: Operation) -> None:
        stream, value = operation.results
        before, lowering = self.streams[operation.operands[0].name], self._lowering
        state, heal = self._writer.heal(before)
        options = lowering.constants.get(operation.operands[1].name)
        tokens = option_tokens(
            operation, options, before, heal, lowering.tokenizer, lowering.context
        )
        state = self._writer.flush(state, self._out.append, closing=True)
        kv = self._names.value("kv", KV)
        self._out.append(
            make(
                "plan.select", state.kv, operation.operands[1], results=(kv, value),
                span=operation.span, name=operation["name"], by=operation.attribute("by"),
                heal=heal or None, prefix=operation.attribute("prefix"),
                tokens=tokens, **who(operation),
            )
        )  # fmt: skip
        self.streams[stream.name] = state.at(kv)

    def _score(self, operation: Operation) -> None:
        """Score on the text so far, which ends a token here; the healed space stays to come."""
        stream, text = operation.operands
        state, heal = self._writer.heal(self.streams[stream.name])
        state = self._writer.flush(state, self._out.append, closing=True)
        self._out.append(
            make(
                "plan.score", state.kv, text, results=operation.results, span=operation.span,
                heal=heal or None, **who(operation),
            )
        )  # fmt: skip
        self.streams[stream.name] = state.plus(heal, span=operation.span) if heal else state

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
        state = self._writer.flush(self.streams[stream.name], self._out.append, closing=True)
        resident = self._names.value("kv", KV)
        self._out.append(
            make(
                "plan.prefill", state.kv, results=(resident,), span=operation.span,
                reason=f"shared by the branches of {operation['name']}",
            )
        )  # fmt: skip
        state = self.streams[stream.name] = state.at(resident)
        region = operation.regions[0]
        kv = self._names.value("kv", KV)
        outer = self._flush_used(region.operations)
        inner = outer | {region.arguments[0].name: replace(state, kv=kv)}
        block = _Block(self._lowering, inner)
        body = block.lower(region.operations)
        results = operation.results
        if len(results) == 2:
            kvs = self._names.value("branches", list_of(KV))
            last = block.streams[region.operations[-1].operands[1].name]
            self._branches[results[1].name] = kvs, last
            results = (results[0], kvs)
        self._out.append(
            make(
                "plan.fork", resident, operation.operands[1], results=results,
                span=operation.span, name=operation["name"], prefix=operation.attribute("prefix"),
                regions=(Region((kv, *region.arguments[1:]), body),),
            )
        )  # fmt: skip

    def _inline(self, operation: Operation) -> None:
        region = operation.regions[0]
        before = self._operand(operation.operands[0])
        state = self.streams[operation.operands[0].name]
        kv, result = self._names.value("kv", KV), self._names.value("kv", KV)
        inner = self._flush_used(region.operations)
        inner[region.arguments[0].name] = replace(state, kv=kv, sealed=False)
        body = _Block(self._lowering, inner).lower(region.operations)
        self._out.append(
            make(
                "plan.inline", before, results=(result, operation.results[1]),
                span=operation.span, name=operation["name"], regions=(Region((kv,), body),),
            )
        )  # fmt: skip
        left = self._lowering.left or state
        self.streams[operation.results[0].name] = replace(left, kv=result, sealed=False)

    def _leave(self, operation: Operation) -> None:
        stream, value = operation.operands
        kv = self._operand(stream)
        self._lowering.left = self.streams[stream.name]
        self._out.append(make("plan.leave", kv, value, span=operation.span))

    def _return(self, operation: Operation) -> None:
        """End the program; text after the last gen is written too, for whoever reads the stream."""
        if self._newest is not None:
            state = self.streams[self._newest]
            self.streams[self._newest] = self._writer.flush(state, self._out.append, closing=False)
        self._out.append(make("plan.return", *operation.operands, span=operation.span))

    # Control flow: streams that cross it are written first, left open.

    def _control(self, operation: Operation) -> None:
        inner_ops = tuple(op for region in operation.regions for op in region.operations)
        operands = tuple(self._operand(value) for value in operation.operands)
        visible = self._flush_used(inner_ops)
        carried = [self.streams.get(value.name) for value in operation.operands]
        if operation.name == "program.for":
            carried = carried[1:]
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
            streams[value.name] = replace(outer, kv=kv, pieces=(), sealed=False)
            arguments.append(kv)
        block = _Block(self._lowering, streams)
        body = block.lower(region.operations)
        self._last_inner = block.streams
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
            self.streams[value.name] = replace(state, kv=result, pieces=(), sealed=False)

    def _yielded(self, operation: Operation, position: int) -> StreamState | None:
        """Return the state that the last region yields at a position (for its chat roles)."""
        last = operation.regions[-1].operations
        if not last or last[-1].name != "program.yield":
            return None
        return self._last_inner.get(last[-1].operands[position].name)

    def _operand(self, value: Value) -> Value:
        """Return the value as the plan has it: a stream is written out, left open."""
        if value.type != STREAM:
            return value
        state = self._writer.flush(self.streams[value.name], self._out.append, closing=False)
        self.streams[value.name] = state
        return state.kv

    def _result(self, value: Value) -> Value:
        return self._names.value("kv", KV) if value.type == STREAM else value

    def _flush_used(self, operations: tuple[Operation, ...]) -> dict[str, StreamState]:
        """Write out every stream that inner operations use; return all visible states."""
        for name in _used_streams(operations):
            if name in self.streams:
                state = self.streams[name]
                self.streams[name] = self._writer.flush(state, self._out.append, closing=False)
        return dict(self.streams)


def who(operation: Operation) -> dict[str, Any]:
    """Return an operation's annotations of who computes it."""
    return {key: operation.attribute(key) for key in WHO}


def _used_streams(operations: tuple[Operation, ...]) -> Iterator[str]:
    seen: dict[str, None] = {}
    for operation in walk(operations):
        for value in operation.operands:
            if value.type == STREAM:
                seen[value.name] = None
    yield from seen
