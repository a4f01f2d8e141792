"""What a row asks of endpoints: gens, selects and scores, and how their answers are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from ...ir.core import Operation
from ...ir.diagnostics import WeftError
from ...ir.values import parse_value
from ...ir.vocabulary import EMPTY_OPTION, NO_OPTIONS
from ..execution.sampler import site_key
from ..programs.bindings import stops_of
from ..programs.control import Step
from ..programs.events import Choice as Chosen
from ..programs.events import Generated, Listener, TextPiece, ValueBound
from ..programs.frame import Frame
from ..programs.future_values import all_now, now
from ..programs.partial import PartialTeller
from ..programs.tasks import Branches
from .answers import Answer
from .ask import ask_together
from .consecutive import Step as Ahead
from .endpoint import Endpoint
from .errors import Lacks, WrongValue
from .pool import Call
from .program import RemoteProgram, sampling_of
from .prompt import Stream
from .question import Asked, Question
from .selecting import Choice, by_first_token, picked_by, scored
from .validity import problem_of

TRIES = 3
"""How often a drawn answer is asked for where nothing holds it to its type."""


Operands = tuple[Any, ...]
"""Of an issued operation: values, some of which may still be missing."""


@dataclass(frozen=True)
class Ready:
    """A gen's text that came with an earlier answer, if its prompt is what was foreseen."""

    stream: Stream
    text: str


class EndpointCalls:
    """The calls of one row, and what they come to.

    Each method named like a program operation takes its operands, some of which may still be
    missing, and returns its results.
    """

    def __init__(
        self,
        machine: RemoteProgram,
        endpoint_of: Callable[[Operation], Endpoint],
        asked: Asked,
        row: int,
        arguments: Mapping[str, Any],
        seed: int = 0,
        listener: Listener | None = None,
    ) -> None:
        self.row = row
        self.trunk = Frame(row)
        self.stream = Stream()
        self.started = perf_counter()
        self.first_token: float | None = None
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.calls = 0
        self._machine = machine
        self._endpoint_of = endpoint_of
        self._asked = asked
        self._arguments = arguments
        self._seed = seed
        self._listener = listener
        self._ready: dict[tuple[Any, int], Ready] = {}

    def _to(self, frame: Frame, stream: Stream) -> Stream:
        """Return a stream that a statement gives; the trunk's last one is the row's text."""
        if not frame.path:
            self.stream = stream
        return stream

    def _gen(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        name, type = operation["name"], operation["type"]
        occurrence = frame.occurrence(name)
        stream = yield from now(operands[0])
        ready = self._ready.pop((frame.path, id(operation)), None)
        if ready is not None and ready.stream == stream:
            answer = Answer(ready.text)
            if self._listener is not None and ready.text:
                self._listener(TextPiece(name, ready.text, frame.path))
        else:
            answer = yield from self._answered(operation, frame, stream, occurrence)
        after = self._to(frame, stream.plus(answer.text, said=True))
        value: Any = parse_value(type, self._machine.records, answer.text)
        if answer.logprobs is not None and isinstance(value, str):
            value = Generated(value, list(answer.logprobs))
        self._keep(operation, frame, after, answer)
        self._tell(frame, name, occurrence, value)
        return after, value

    def _answered(
        self, operation: Operation, frame: Frame, stream: Stream, occurrence: int
    ) -> Step:  # fmt: skip
        """Ask until the answer is a value of its type; a greedy model is asked only once."""
        endpoint, type = self._endpoint_of(operation), operation["type"]
        seed = operation.attribute("seed")
        key = site_key(self._seed if seed is None else seed, (self.row, *frame.path),
                       operation["name"], occurrence)  # fmt: skip
        for number in range(TRIES):
            question = self._question(operation, stream, key + number)
            teller = self._teller(operation, frame) if number == 0 else None
            answer = yield from self._call(
                operation, lambda call, q=question: ask_together(q, self._asked, endpoint, call),
                teller,
            )  # fmt: skip
            text = answer.text if type.name in {"str", "regex"} else answer.text.strip()
            answer = replace(answer, text=text)
            self._count(answer)
            wrong = problem_of(type, self._machine, text)
            if wrong is None:
                return answer
            drawn = question.sampling["temperature"] > 0
            if not drawn or number == TRIES - 1:
                raise self._wrong(operation, question, answer, wrong, number + 1)
        raise AssertionError("the last try returns or raises")

    def _question(
        self, operation: Operation, stream: Stream, key: int
    ) -> Question:  # fmt: skip
        rest = self._machine.ahead.get(id(operation), [])
        gens = [operation, *(gen for _, gen in rest)]
        literals = [*(literal for literal, _ in rest), ""]
        steps = [
            Ahead(_strings(gen), gen["max_tokens"], literal)
            for gen, literal in zip(gens, literals, strict=True)
        ]
        budget = sum(step.max_tokens + len(step.literal.encode()) for step in steps)
        return Question(
            f"gen {operation['name']!r}", stream, budget, operation.span, stops_of(operation),
            sampling_of(operation, key), bool(operation.attribute("logprobs")),
            self._machine.holdings[operation["type"]], steps=steps if rest else (),
        )  # fmt: skip

    def _keep(self, operation: Operation, frame: Frame, stream: Stream, answer: Answer) -> None:
        """Keep the texts that came for gens after this one, each under its foreseen prompt."""
        rest = self._machine.ahead.get(id(operation), [])
        for (literal, gen), text in zip(rest, answer.more, strict=False):
            stream = stream.plus(literal)
            self._ready[frame.path, id(gen)] = Ready(stream, text)
            stream = stream.plus(text, said=True)

    def _select(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        name, by = operation["name"], operation.attribute("by") or "token_normalized"
        occurrence = frame.occurrence(name)
        stream, options = yield from all_now(operands)
        if not options or not all(options):
            problem = f"it has {'an empty option' if options else 'no options'}"
            what = f"select {name!r}"
            hint = EMPTY_OPTION if options else NO_OPTIONS
            raise WrongValue(
                row=self.row, what=what, problem=problem, hint=hint, span=operation.span
            )
        endpoint = self._endpoint_of(operation)
        different = tuple(dict.fromkeys(options))
        choice = Choice(f"select {name!r}", stream, different, by, operation.span)
        picked = yield from self._picked(operation, choice, endpoint)
        self.prompt_tokens += picked.prompt_tokens
        chosen = Chosen(picked.option, picked.probs)
        self._tell(frame, name, occurrence, chosen)
        return self._to(frame, stream.plus(picked.option, said=True)), chosen

    def _picked(self, operation: Operation, choice: Choice, endpoint: Endpoint) -> Step:
        """Score the first option, then the others side by side; or go by first tokens."""

        def one(text: str) -> Step:
            return self._call(
                operation, lambda call: scored(choice, text, self._asked, endpoint, call.over)
            )

        first = yield from one(choice.options[0])
        rest = [] if first is None else (yield Branches([one(o) for o in choice.options[1:]]))
        if first is None or None in rest:
            return (
                yield from self._call(
                    operation, lambda call: by_first_token(choice, self._asked, endpoint, call.over)
                )
            )
        return picked_by(choice, [first, *rest])

    def _score(self, operation: Operation, operands: Operands, frame: Frame) -> Step:
        stream, text = yield from all_now(operands)
        endpoint = self._endpoint_of(operation)
        choice = Choice("score", stream, (text,), "", operation.span)
        scores: list[float] | None = []
        if text:
            scores = yield from self._call(
                operation, lambda call: scored(choice, text, self._asked, endpoint, call.over)
            )
        if scores is None:
            lack = "the endpoint does not echo the log-probabilities of a prompt"
            hint = "use a server that does (vLLM, llama.cpp's Python server)"
            if not endpoint.lacks_echo and not self._asked.chat:
                lack = "the endpoint gives no log-probability of one of its tokens"
                hint = "a prompt's first token has none at some servers: put a text before it"
            raise Lacks(what="score", span=operation.span, lack=lack, hint=hint)
        return (sum(scores),)

    # Helpers.

    def _call(
        self,
        operation: Operation,
        work: Callable[[Call], Any],
        hear: Callable[[str], None] | None = None,
    ) -> Step:
        """Wait for a call; an error gets the statement's place."""
        self.calls += 1
        call = Call(work, int(operation.attribute("priority") or 0), hear)
        try:
            done = yield call
        except WeftError as error:
            if error.span is None:
                raise type(error)(span=operation.span, **error.fields) from None
            raise
        return done.result

    def _teller(self, operation: Operation, frame: Frame) -> Callable[[str], None] | None:
        listener, name = self._listener, operation["name"]
        if listener is None:
            return None
        tell: Callable[[str], None] = lambda text: listener(TextPiece(name, text, frame.path))  # noqa: E731
        if operation["type"].name in {"record", "list", "schema"}:
            tell = PartialTeller(listener, name, frame.path)

        def hear(text: str) -> None:
            self.first_token = self.first_token or perf_counter()
            tell(text)

        return hear

    def _count(self, answer: Answer) -> None:
        self.first_token = self.first_token or perf_counter()
        self.prompt_tokens += answer.prompt_tokens
        self.generated_tokens += answer.generated_tokens

    def _wrong(
        self, operation: Operation, question: Question, answer: Answer, problem: str, tries: int
    ) -> WrongValue:  # fmt: skip
        hint = "the endpoint does not hold a gen to its type: ask for it in the prompt, or use a "
        hint += "server that does (vLLM, SGLang, llama.cpp), named by --remote dialect=..."
        if answer.finish == "length":
            hint = "max_tokens cut it short: give the gen more"
        elif tries > 1:
            problem += f" ({tries} tries)"
        return WrongValue(row=self.row, what=question.what, problem=problem, hint=hint,
                          span=operation.span)  # fmt: skip

    def _tell(self, frame: Frame, name: str, occurrence: int, value: Any) -> None:
        frame.tell(name, occurrence, value)
        if self._listener is not None:
            self._listener(ValueBound(name, value, frame.path))


def _strings(gen: Operation) -> tuple[str, ...]:
    """Return the stop strings of a gen that shares an answer: it has no stop pattern."""
    stops = stops_of(gen)
    return stops if isinstance(stops, tuple) else ()
