"""What an instance asks of the model, and the sequences that it holds for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ..ir.core import Operation
from ..ir.diagnostics import RunError, WeftError
from ..ir.values import format_value, parse_value
from ..ir.vocabulary import Part, encode_parts, split_heal
from .engine import Engine
from .events import Choice, Generated, Listener, TextPiece, ValueBound
from .frame import Frame, Handle
from .heal import join_texts
from .machine import Machine
from .partial import PartialTeller
from .request import Request, Sampling
from .sampler import site_key
from .select import Scorer, choose, probabilities
from .sequence import Sequence

Step = Generator[Any, Any, Any]


class ProgramFailed(RunError):
    """A gen, select, fork or loop that its values do not allow."""

    template = "row {row}: {problem}"


class ModelCalls:
    """The streams of one row: text that is gathered, sequences, and what the model makes of them.

    Each method named like a plan operation is a coroutine that runs it.
    """

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        row: int,
        ticket: int,
        arguments: Mapping[str, Any],
        seed: int = 0,
        listener: Listener | None = None,
    ) -> None:
        self.row = row
        self.ticket = ticket
        self.meter = machine.meter()
        self.trunk = Frame(row)
        self.stream: Sequence | None = None
        self.stream_ids: list[int] = []
        self._machine = machine
        self._engine = engine
        self._arguments = arguments
        self._seed = seed
        self._listener = listener
        self._spawned = 0

    def free(self, remember: bool) -> None:
        """Give back all sequences that the instance still has."""
        for sequence in list(self.meter.sequences):
            self._free_sequence(sequence, remember)

    # Streams.

    def _tokens(self, operation: Operation, frame: Frame) -> Step:
        frame.bind(operation.results, (operation["ids"],))
        return
        yield

    def _tokenize(self, operation: Operation, frame: Frame) -> Step:
        parts: list[Part] = []
        for part in operation["parts"]:
            if isinstance(part, int | str):
                parts.append(part)
            else:
                parts.append(format_value(frame.get(operation.operands[part["value"]])))
        frame.bind(operation.results, (tuple(parts),))
        return
        yield

    def _extend(self, operation: Operation, frame: Frame) -> Step:
        handle, *segments = (frame.get(value) for value in operation.operands)
        pending = handle.pending + tuple(part for segment in segments for part in segment)
        frame.bind(operation.results, (Handle(handle.sequence, handle.length, pending),))
        return
        yield

    def _free(self, operation: Operation, frame: Frame) -> Step:
        handle = frame.get(operation.operands[0])
        sequence = handle.sequence
        if handle.length == sequence.length and not sequence.busy and not frame.borrows:
            self._free_sequence(sequence)
        return
        yield

    def _prefill(self, operation: Operation, frame: Frame) -> Step:
        handle = self._settle(operation.operands[0], frame)
        yield from self._call(Request(handle.sequence, "prefill", row=self.row))
        frame.bind(operation.results, (handle,))

    def _decode(self, operation: Operation, frame: Frame) -> Step:
        name, type = operation["name"], operation["type"]
        occurrence = frame.occurrence(name)
        handle, heal = self._settle_healed(operation, frame)
        listener = self._hears(name, type, frame)
        watch = self._machine.watch(operation, heal, listener)
        request = Request(
            handle.sequence, f"gen {name!r}", self._sampling(operation, frame, occurrence), watch,
            logprobs=bool(operation.attribute("logprobs")), row=self.row,
        )  # fmt: skip
        yield from self._call(request)
        self.meter.generated(request)
        kv, value = operation.results
        frame.values[kv.name] = Handle(handle.sequence, handle.sequence.length)
        text = self._machine.words.text(request.generated().tolist())
        text = text.removeprefix(heal)
        parsed = self._parse(operation, type, text)
        if request.logprobs and isinstance(parsed, str):
            parsed = Generated(parsed, request.token_logprobs)
        self._tell(frame, name, parsed)
        frame.values[value.name] = parsed

    def _select(self, operation: Operation, frame: Frame) -> Step:
        name, by = operation["name"], operation.attribute("by") or "token_normalized"
        frame.occurrence(name)
        options = frame.get(operation.operands[1])
        handle, heal = self._settle_healed(operation, frame)
        encoded = self._encoded_options(operation, options, heal)
        if not encoded or not all(encoded):
            problem = f"select {name!r} has {'an empty option' if encoded else 'no options'}"
            raise ProgramFailed(row=self.row, problem=problem, span=operation.span)
        sequence, what = handle.sequence, f"select {name!r}"
        scores = yield from self._score_options(sequence, sequence.length, encoded, what, frame)
        base = None
        if by == "unconditional":
            base = yield from self._score_options(sequence, 1, encoded, what, frame)
        best = choose(by, scores, base)
        shares = dict(zip(options, probabilities(scores), strict=True))
        sequence.append(encoded[best])
        choice = Choice(options[best], shares)
        kv, value = operation.results
        frame.bind((kv, value), (Handle(sequence, sequence.length), choice))
        self._tell(frame, name, choice)

    def _encoded_options(
        self, operation: Operation, options: list[str], heal: str
    ) -> list[list[int]]:
        known = operation.attribute("tokens")
        if known is not None:
            return [list(ids) for ids in known]
        return [self._machine.tokenizer.encode(heal + option) for option in options]

    def _score(self, operation: Operation, frame: Frame) -> Step:
        """Score a text as a continuation; the stream keeps its end, the healed space included."""
        kv, text = operation.operands
        handle, heal = self._settle_healed(operation, frame)
        if heal and operation.attribute("heal") is None:
            frame.values[kv.name] = Handle(handle.sequence, handle.length, (heal,))
        total, text = 0.0, frame.get(text)
        if text:
            ids = self._machine.tokenizer.encode(heal + text)
            sequence = handle.sequence
            scores = yield from self._score_options(
                sequence, sequence.length, [ids], "score", frame
            )
            total = sum(scores[0])
        frame.bind(operation.results, (total,))

    def _score_options(
        self, parent: Sequence, length: int, options: list[list[int]], what: str, frame: Frame
    ) -> Step:
        """Score options after the first `length` tokens; what is needed for it is freed again."""

        def fork(sequence: Sequence) -> Sequence:
            child = self._engine.fork(sequence, sequence.length, self._order())
            self.meter.begin(child, scoring=False)
            return self._own(child, frame)

        sequence = parent
        if length < parent.length:
            sequence = self._own(self._engine.fork(parent, length, self._order()), frame)
        self.meter.begin(sequence, scoring=True)
        scores = yield from Scorer(options, fork, self._free_sequence, what, self.row).run(sequence)
        if sequence is not parent:
            self._free_sequence(sequence)
        return scores

    # Helpers.

    def _settle(self, value: Any, frame: Frame) -> Handle:
        """Encode a handle's pending parts into its sequence, and let the value stand for that.

        A sequence that has moved on, or was freed, is forked at the handle's length: what a plan
        frees decides about memory and time, never about tokens.
        """
        handle = frame.get(value)
        sequence = handle.sequence
        freed = sequence not in self.meter.sequences
        if freed or sequence.busy or handle.length < sequence.length:
            order = self._order()
            sequence = self._own(self._engine.fork(sequence, handle.length, order), frame)
        if handle.pending:
            sequence.append(encode_parts(self._machine.tokenizer, handle.pending))
        settled = Handle(sequence, sequence.length)
        frame.values[value.name] = settled
        if not frame.path:
            self.stream = sequence
        return settled

    def _settle_healed(self, operation: Operation, frame: Frame) -> tuple[Handle, str]:
        """Settle a generation's kv; the space at its end goes to the generation."""
        value = operation.operands[0]
        handle, heal = frame.get(value), operation.attribute("heal") or ""
        if not heal:
            pending, heal = split_heal(join_texts(handle.pending))
            frame.values[value.name] = Handle(handle.sequence, handle.length, pending)
        settled = self._settle(value, frame)
        if not settled.length:
            what = operation.attribute("name") or "score"
            problem = f"{what!r} has an empty prompt, and the model no begin token"
            raise ProgramFailed(row=self.row, problem=problem, span=operation.span)
        return settled, heal

    def _call(self, request: Request) -> Step:
        self.meter.begin(request.sequence, scoring=request.first_logits < request.sequence.length)
        return (yield request)

    def _sampling(self, operation: Operation, frame: Frame, occurrence: int) -> Sampling:
        seed = operation.attribute("seed")
        seed = self._seed if seed is None else seed
        return Sampling(
            max_tokens=operation["max_tokens"],
            temperature=float(operation.attribute("temperature") or 0.0),
            top_k=int(operation.attribute("top_k") or 0),
            top_p=float(_default(operation.attribute("top_p"), 1.0)),
            min_p=float(operation.attribute("min_p") or 0.0),
            ends=tuple(operation.attribute("ends") or ()),
            key=site_key(seed, (self.row, *frame.path), operation["name"], occurrence),
        )

    def _parse(self, operation: Operation, type: Any, text: str) -> Any:
        try:
            return parse_value(type, self._machine.records, text)
        except WeftError as error:
            problem = f"gen {operation['name']!r}: {error.message}"
            raise ProgramFailed(
                row=self.row, problem=problem, hint=error.hint_text, span=operation.span
            ) from None

    def _bind(self, operation: Operation, frame: Frame, name: str, value: Any) -> None:
        frame.bind(operation.results, (value,))
        self._tell(frame, name, value)

    def _tell(self, frame: Frame, name: str, value: Any) -> None:
        frame.bound[name] = value
        if self._listener is not None:
            self._listener(ValueBound(name, value, frame.path))

    def _hears(self, name: str, type: Any, frame: Frame) -> Any:
        listener = self._listener
        if listener is None:
            return None
        if type.name in {"record", "list", "schema"}:
            return PartialTeller(listener, name, frame.path)
        return lambda text: listener(TextPiece(name, text, frame.path))

    def _own(self, sequence: Sequence, frame: Frame) -> Sequence:
        before = self.meter.sequences.get(sequence)
        if before is not None:
            before.owned.pop(sequence, None)
        frame.owned[sequence] = None
        self.meter.sequences[sequence] = frame
        return sequence

    def _free_sequence(self, sequence: Sequence, remember: bool = True) -> None:
        frame = self.meter.sequences.pop(sequence, None)
        if frame is not None:
            frame.owned.pop(sequence, None)
        if sequence is self.stream:
            self.stream_ids = sequence.ids()
        self.meter.forget(sequence)
        self._engine.free(sequence, remember)

    def _order(self) -> tuple[int, int]:
        self._spawned += 1
        return self.ticket, self._spawned


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value
