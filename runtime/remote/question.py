"""One gen as a question to an endpoint, and the body of the call that asks it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.source import Span
from .consecutive import Step
from .dialects import Held, Holding
from .endpoint import CHAT, TEXT, Endpoint
from .errors import Lacks
from .prompt import Stream, TextFormat

LOGPROBS = {True: {"logprobs": True, "top_logprobs": 1}, False: {"logprobs": 1}}
"""How chat calls, and calls for text, ask for the log-probabilities of what is said."""

MOST_STOPS = 4
"""How many stop strings the API takes; more are looked for here."""


@dataclass(frozen=True)
class Asked:
    """How calls are made: chat messages, or text in a format; `fixed` where chat must not fall
    back to text."""

    chat: bool
    format: TextFormat
    fixed: bool = False


@dataclass(frozen=True)
class Question:
    """A gen at a prompt state. `steps` are the gens that one answer may hold, itself first.

    With `heal`, the prompt is sent less this space, and the answer must begin with it.
    """

    what: str
    stream: Stream
    max_tokens: int
    span: Span | None = None
    stops: tuple[str, ...] | re.Pattern[str] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    logprobs: bool = False
    holding: Holding | None = None
    held: Held = field(default_factory=Held)
    heal: str = ""
    steps: Sequence[Step] = ()

    def ends_in_space(self, asked: Asked) -> bool:
        """Return whether the prompt, as it is sent, ends in a space."""
        said = self.stream.opening if asked.chat else self.stream.text(asked.format)
        return said.endswith(" ") and self.stream.may_heal


def body_of(question: Question, asked: Asked, endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of a call; raises Lacks where a message cannot be continued."""
    body: dict[str, Any] = {"model": endpoint.service.name()}
    if asked.chat:
        stream = question.stream.without_space() if question.heal else question.stream
        body["messages"] = stream.messages()
        body |= continuation(question.what, stream, question.span, endpoint)
    else:
        prompt = question.stream.text(asked.format)
        body["prompt"] = prompt[: len(prompt) - len(question.heal)]
    body[endpoint.token_field if asked.chat else "max_tokens"] = question.max_tokens
    _need_known(question, endpoint)
    body |= {**endpoint.dialect.neutral, **question.sampling, **question.held.fields}
    stops = stops_to_send(question)
    if stops:
        body["stop"] = list(stops)
    if question.logprobs:
        body |= LOGPROBS[asked.chat]
    return (CHAT if asked.chat else TEXT), body


def _need_known(question: Question, endpoint: Endpoint) -> None:
    for name in ("top_k", "min_p"):
        if question.sampling.get(name) and name not in endpoint.dialect.known:
            lack = f"the API of the endpoint has no {name}"
            raise Lacks(what=question.what, span=question.span, lack=lack, hint=_NAME_IT)


_NAME_IT = "leave it out, or name a server that has it: --remote dialect=vllm (or another)"


def continuation(
    what: str, stream: Stream, span: Span | None, endpoint: Endpoint
) -> Mapping[str, Any]:
    """Return the fields by which the answer goes on in an open message; raises Lacks."""
    tail = stream.tail
    if tail is not None and tail.text:
        fields = endpoint.prefill()
        if fields is None:
            raise Lacks(what=what, span=span, lack=_NO_PREFILL, hint=_MEND)
        return fields
    parts = stream.parts[: -1 if tail is not None else None]
    if parts and parts[-1].role == "assistant" and endpoint.dialect.name == "llama.cpp":
        lack = "this server would continue the assistant message before it"
        raise Lacks(what=what, span=span, lack=lack,
                    hint="put a user message between them, or make them one")  # fmt: skip
    return {}


_NO_PREFILL = (
    "the endpoint cannot go on in an assistant message that has text already: it closes the "
    "message and begins another"
)
_MEND = (
    "ask for the text in the user's message instead; or give --remote template=CHECKPOINT, so that "
    "messages are written as text; or --remote prefill=yes if the server can"
)


def stops_to_send(question: Question) -> tuple[str, ...]:
    """Return the stop strings of the call; none where several gens share it, or too many."""
    stops = question.stops
    if question.steps or isinstance(stops, re.Pattern) or len(stops) > MOST_STOPS:
        return ()
    return stops
