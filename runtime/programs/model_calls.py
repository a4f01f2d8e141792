"""What an instance asks of the model, and the sequences that it holds for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from collections.abc import Sequence as Items
from functools import partial
from typing import Any

import numpy as np

from ...ir.core import Operation
from ...ir.diagnostics import RunError, WeftError
from ...ir.source import Span
from ...ir.values import check_whole, format_value, parse_value
from ...ir.vocabulary import EMPTY_OPTION, NO_OPTIONS, Part, split_heal
from ..constraints.heal import join_texts
from ..engine import Engine
from ..memory.sequence import Sequence
from ..schedule.request import Request
from .events import Choice, Generated, Listener, TextPiece, ValueBound
from .frame import Frame, Handle
from .future_values import Later, Spawn, all_now, any_of, is_missing, now, present
from .gens import STRUCTURED, Gen
from .lines import Results
from .machine import Machine
from .partial import PartialTeller
from .select import Scorer, beginning, choose, shares
from .tasks import Together
from .texts import Unencoded

Step = Generator[Any, Any, Any]


UNLIMITED = 1 << 30


class ProgramFailed(RunError):
    """A gen, select, fork or loop that its values do not allow."""

    template = "row {row}: {problem}"


class ModelCalls:
    """The streams of one row: text that is gathered, sequences, and what the model makes of them.

    Each method named like a plan operation is a coroutine that runs it. Those that ask the model
    are issued: they take operands that may still be missing, and return the results.
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
        self.stream_ids = np.empty(0, np.int32)
        self._machine = machine
        self._engine = engine
        self.arguments = arguments
        self._seed = seed
        self._listener = listener
        self.most_ahead = UNLIMITED
        self.spared = 0
        """Tokens that gens on the program's own stream have ended before their budgets."""
        self._spawned = 0
        self._locks: dict[Sequence, Later] = {}

    def free(self, remember: bool) -> None:
        """Give back all sequences that the instance still has."""
        for sequence in list(self.meter.sequences):
            self._free_sequence(sequence, remember)

    # Streams.

    def _free(self, operation: Operation, frame: Frame) -> Step:
        if not frame.borrows:
            yield from self._free_unread(operation, frame.get(operation.operands[0]), frame)

    def _free_unread(self, operation: Operation, kv: Any, frame: Frame) -> Step:
        """Give a stream back, now or once nothing reads it any more."""
        users = frame.users(operation.operands[0])
        if users or is_missing(kv):
            yield Spawn(self._free_later(kv, users))
        else:
            self._free_now(kv)

    def _free_later(self, kv: Any, users: list[Later]) -> Step:
        yield from all_now(users)
        handle = yield from now(kv)
        yield from self._unlocked(handle.newest().sequence)
        self._free_now(handle)

    def _free_now(self, kv: Handle) -> None:
        handle = kv.newest()
        if handle.length == handle.sequence.length and not handle.sequence.busy:
            self._free_sequence(handle.sequence)

    def _decode(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        gen = self._machine.gen(operation)
        occurrence = frame.occurrence(gen.name)
        handle, heal = yield from self._settle_healed(operation, operands[0], frame)
        request, listener = self._asked(gen, handle.sequence, heal, frame, occurrence)
        yield from self._ask(request.sequence, request)
        return self._said(gen, request, heal, listener, frame, occurrence)

    def _asked(
        self, gen: Gen, sequence: Sequence, heal: str, frame: Frame, occurrence: int
    ) -> tuple[Request, Any]:
        """Return the request of a gen, and who hears its text meanwhile."""
        listener = None
        if self._listener is not None:
            listener = self._hears(gen, frame)
            if gen.forced:
                listener(gen.forced)
        watch = None
        if gen.watched or heal or listener is not None:
            watch = self._machine.watch(gen, heal, listener)
        request = Request(
            sequence, gen.label, gen.sampling(self._seed, self.row, frame.path, occurrence), watch,
            logprobs=gen.logprobs, row=self.row, same=(*gen.decides, heal),
            critical=gen.critical + frame.after, span=gen.span, attention=gen.attention,
        )  # fmt: skip
        return request, listener

    def _said(
        self, gen: Gen, request: Request, heal: str, listener: Any, frame: Frame, occurrence: int
    ) -> tuple[Handle, Any]:
        """Return the stream behind a gen that is done, and its value."""
        self.meter.generated(request)
        if not frame.path:
            self.spared += max(0, gen.max_tokens - request.flushed)
        text = self._machine.tokenizer.decode(request.generated().tolist()).removeprefix(heal)
        if request.duplicate and listener is not None and text:
            listener(text)  # its watch has seen no token: they are those of an equal gen
        value = gen.forced + text
        parsed = value if gen.is_text else self._parse(gen, value, request.reason)
        if gen.logprobs and isinstance(parsed, str):
            parsed = Generated(parsed, request.token_logprobs)
        self._tell(frame, gen.name, occurrence, parsed)
        return Handle(request.sequence, request.sequence.length), parsed

    def _select(self, operation: Operation, operands: tuple[Any, ...], frame: Frame) -> Step:
        name, by = operation["name"], operation.attribute("by") or "token_normalized"
        occurrence = frame.occurrence(name)
        gone = frame.set_out()
        options = yield from now(operands[1])
        if not options or not all(options):  # behind a space that is healed, too
            problem = f"select {name!r} has {'an empty option' if options else 'no options'}"
            hint = EMPTY_OPTION if options else NO_OPTIONS
            raise ProgramFailed(row=self.row, problem=problem, hint=hint, span=operation.span)
        unknown = options if operation.attribute("tokens") is None else ()
        handle, heal = yield from self._settle_healed(operation, operands[0], frame, unknown)
        encoded = self._encoded_options(operation, options, heal)
        sequence, what = handle.sequence, f"select {name!r}"
        begun = beginning(encoded)
        scores = yield from self._score_options(
            sequence, sequence.length, encoded, what, frame, operation, begun
        )
        base = None
        if by == "unconditional":
            base = yield from self._score_options(sequence, 1, encoded, what, frame, operation)
        best = choose(by, scores, base)
        sequence.append(encoded[best][len(begun) :])
        choice = Choice(options[best], shares(options, scores))
        self._tell(frame, name, occurrence, choice)
        gone.settle()
        return Handle(sequence, sequence.length), choice

    def _encoded_options(
        self, operation: Operation, options: list[str], heal: str
    ) -> list[list[int]]:
        known = operation.attribute("tokens")
        if known is not None:
            return [list(ids) for ids in known]
        return [self._machine.texts.listed(heal + option) for option in options]

    def _score(self, operation: Operation, frame: Frame) -> Step:
        kv, text = map(frame.get, operation.operands)
        frame.expect(operation, (yield from self._start_score(operation, kv, text, frame)))

    def _start_score(self, operation: Operation, kv: Any, text: Any, frame: Frame) -> Step:
        """Score a text as a continuation; the stream keeps its end, the healed space included.

        The text is waited for before anything that follows begins: what the score settles, the
        stream goes on from.
        """
        text = yield from now(text)
        yield from self._room(frame)
        return (yield Spawn(self._score_later(operation, present(kv), text, frame)))

    def _score_later(self, operation: Operation, kv: Any, text: str, frame: Frame) -> Step:
        gone = frame.set_out()
        handle, heal = yield from self._settle_healed(operation, kv, frame, (text,) if text else ())
        if heal and operation.attribute("heal") is None:
            handle.settled = Handle(handle.sequence, handle.length, (heal,))
        if not text:
            gone.settle()
            return (0.0,)
        ids = self._machine.texts.listed(heal + text)
        sequence = handle.sequence
        scores = yield from self._score_options(
            sequence, handle.length, [ids], "score", frame, operation
        )
        gone.settle()
        return (sum(scores[0]),)

    def _score_options(
        self, parent: Sequence, length: int, options: list[list[int]], what: str, frame: Frame,
        operation: Operation, begun: list[int] | None = None,
    ) -> Step:  # fmt: skip
        """Score options after the first `length` tokens; what is needed for it is freed again.

        With `begun`, what all options begin with, all of `parent` goes on with that.
        """

        def fork(sequence: Sequence) -> Sequence:
            end = sequence.length if begun or sequence is not parent else length
            child = self._engine.fork(sequence, end, self._order())
            self.meter.begin(child)
            return self._own(child, frame)

        sequence = parent
        if length < parent.length:
            sequence = self._own(self._engine.fork(parent, length, self._order()), frame)
        scorer = Scorer(options, fork, self._free_sequence, self._ask, what, self.row,
                        _critical(operation, frame), operation.span,
                        self._engine.shares_steps)  # fmt: skip
        scores = yield from scorer.run(sequence, begun or ())
        if sequence is not parent:
            self._free_sequence(sequence)
        return scores

    # Helpers.

    def _settle(self, kv: Any, frame: Frame) -> Step:
        """Encode a handle's pending parts into its sequence; all who have it go on from there.

        A sequence that has moved on, or was freed, is forked at the handle's length: what a plan
        frees decides about memory and time, never about tokens.
        """
        given = yield from now(kv)
        return self._settled(given, (yield from self._encodable(given)), frame)

    def _encodable(
        self, given: Handle, heal: str = "", heals: bool = False, more: Items[str] = ()
    ) -> Step:  # fmt: skip
        """Wait until no request works on a stream, and until its pending texts are encoded, and
        `more` of them behind a space that is healed; return what it has become by then.

        Where it `heals`, the space at its end, which stays there, is none of its texts.
        """
        yield from self._unlocked(given.newest().sequence)
        handle, texts = given.newest(), self._machine.texts
        parts = handle.pending
        if heals:
            parts, heal = split_heal(parts)
        if wanted := texts.unencoded((*parts, *(heal + text for text in more))):
            yield Unencoded(wanted)
            yield from self._unlocked(given.newest().sequence)
            handle = given.newest()
        return handle

    def _settled(self, given: Handle, handle: Handle, frame: Frame) -> Handle:
        sequence = handle.sequence
        freed = sequence not in self.meter.sequences
        if freed or sequence.busy or handle.length < sequence.length:
            order = self._order()
            sequence = self._own(self._engine.fork(sequence, handle.length, order), frame)
        if not frame.path:
            self.stream = sequence
        if sequence is handle.sequence and not handle.pending:
            return handle
        sequence.append(self._machine.texts.ids_of(handle.pending))
        given.settled = handle.settled = settled = Handle(sequence, sequence.length)
        return settled

    def _settle_healed(
        self, operation: Operation, kv: Any, frame: Frame, more: Items[str] = ()
    ) -> Step:  # fmt: skip
        """Settle a generation's kv; the space at its end goes to the generation, or to `more`."""
        given = yield from now(kv)
        heal = operation.attribute("heal") or ""
        heals = not heal and not operation.attribute("forced")
        handle = yield from self._encodable(given, heal, heals, more)
        if heals:
            pending, heal = split_heal(handle.pending)
            if heal:
                given.settled = handle = Handle(handle.sequence, handle.length, pending)
        settled = self._settled(given, handle, frame)
        if not settled.length:
            raise self._empty(operation.attribute("name") or "score", operation.span)
        return settled, heal

    def _empty(self, what: str, span: Span | None) -> ProgramFailed:
        problem = f"{what!r} has an empty prompt, and the model no begin token"
        return ProgramFailed(row=self.row, problem=problem, span=span)

    def _room(self, frame: Frame) -> Step:
        """Wait until few enough operations with sequences of their own are under way."""
        while self.most_ahead < UNLIMITED and len(ahead := frame.out()) >= self.most_ahead:
            yield any_of(ahead)

    def _unlocked(self, sequence: Sequence) -> Step:
        """Wait until no request works on a sequence."""
        while sequence in self._locks:
            yield self._locks[sequence]

    def _ask(self, sequence: Sequence, what: Request | Together) -> Step:
        """Run what works on a sequence; until it is done, the sequence is locked."""
        self.meter.begin(sequence)
        lock = self._locks[sequence] = Later()
        try:
            return (yield what)
        finally:
            del self._locks[sequence]
            lock.settle()

    def _parse(self, gen: Gen, text: str, reason: str) -> Any:
        constraint = gen.operation.attribute("constraint")
        try:
            if reason == "length" and constraint is not None:
                check_whole(gen.type, text, partial(self._machine.constraints.whole, constraint))
            return parse_value(gen.type, self._machine.records, text)
        except WeftError as error:
            problem = f"{gen.label}: {error.message}"
            raise ProgramFailed(
                row=self.row, problem=problem, hint=error.hint_text, span=gen.span
            ) from None

    def _tell(self, frame: Frame, name: str, occurrence: int, value: Any) -> None:
        frame.tell(name, occurrence, value)
        if self._listener is not None:
            self._listener(ValueBound(name, value, frame.path))

    def _hears(self, gen: Gen, frame: Frame) -> Any:
        listener, name = self._listener, gen.name
        assert listener is not None
        if gen.type.name in STRUCTURED:
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
            self.stream_ids = sequence.tokens[: sequence.length]
        self.meter.forget(sequence)
        self._engine.free(sequence, remember)

    def _order(self) -> tuple[int, int]:
        self._spawned += 1
        return self.ticket, self._spawned


def _critical(operation: Operation, frame: Frame) -> int:
    """Return the predicted time from an operation's start to the end of the whole program."""
    return (operation.attribute("critical") or 0) + frame.after


def _parts(operation: Operation, values: Items[Any]) -> tuple[Part, ...]:
    """Return an open segment's parts with its values as texts."""
    return tuple(
        part if isinstance(part, int | str) else format_value(values[part["value"]])
        for part in operation["parts"]
    )


def _extended(operands: Items[Any]) -> Handle:
    handle, *segments = operands
    return handle.plus(join_texts([part for segment in segments for part in segment]))


TEXTS: Mapping[str, Results] = {
    "plan.tokens": lambda operation, operands, row: (operation["ids"],),
    "plan.tokenize": lambda operation, operands, row: (_parts(operation, operands),),
    "plan.extend": lambda operation, operands, row: (_extended(operands),),
}
"""Operations that only gather texts: their results come of their operands at once."""
