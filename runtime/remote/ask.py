"""Asks one question: healed, whole or streamed, in the form of calls that the endpoint has."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ...ir.core import Term
from .answers import Answer, Heard, add, answer_of, malformed, stop_place, whole
from .consecutive import split
from .dialects import Held, Holding
from .endpoint import CHAT, TEXT, Endpoint
from .errors import MissingRoute, Refused
from .failures import Passing
from .line import Cancelled
from .pool import Call
from .question import MOST_STOPS, Asked, Question, body_of


def ask(question: Question, asked: Asked, endpoint: Endpoint, call: Call) -> Answer:
    """Return the answer to a question, in text where the endpoint has no chat; raises WeftError."""
    if endpoint.lacks_chat and not asked.fixed:
        asked = replace(asked, chat=False)
    try:
        return _healed(question, asked, endpoint, call)
    except MissingRoute:
        if not asked.chat or asked.fixed:
            raise
    try:
        answer = _healed(question, replace(asked, chat=False), endpoint, call)
    except MissingRoute:
        path = f"{CHAT} and no {TEXT}"
        raise MissingRoute(url=endpoint.service.address.base, path=path) from None
    endpoint.lacks_chat = True
    return answer


def _healed(question: Question, asked: Asked, endpoint: Endpoint, call: Call) -> Answer:
    """Ask, without the space that a prompt ends with first: models write it with the next word.

    Where the answer does not begin with the space, it is made to by a pattern; where the endpoint
    takes none, the prompt is asked as it is.
    """
    heal = " " if question.ends_in_space(asked) else ""
    held = Held()
    if question.holding is not None:
        held = endpoint.dialect.hold(question.holding, asked.chat, heal) or held
    question = replace(question, held=held)
    if heal and (held.spaced or not held.fields):
        answer = _one(replace(question, heal=heal), asked, endpoint, call)
        if answer is not None:
            return answer
        if held.spaced:
            raise malformed(question, endpoint, "its text does not fit the grammar that was sent")
        answer = _spaced(question, asked, endpoint, call, heal)
        if answer is not None:
            return answer
    answer = _one(question, asked, endpoint, call)
    assert answer is not None
    return answer


def _spaced(
    question: Question, asked: Asked, endpoint: Endpoint, call: Call, heal: str
) -> Answer | None:
    """Ask for any text that begins with the space, where a pattern can be sent."""
    any_text = Holding(Term("str"), r"[\s\S]*")
    held = endpoint.dialect.hold(any_text, asked.chat, heal)
    if held is None or not held.spaced:
        return None
    return _one(replace(question, heal=heal, held=held), asked, endpoint, call)


def ask_together(question: Question, asked: Asked, endpoint: Endpoint, call: Call) -> Answer:
    """Ask a question with all its steps; alone where not even the first one's answer is sure."""
    answer = ask(question, asked, endpoint, call)
    if not answer.unsure:
        return answer
    alone = replace(question, steps=(), max_tokens=question.steps[0].max_tokens)
    return ask(alone, asked, endpoint, call)


def _one(question: Question, asked: Asked, endpoint: Endpoint, call: Call) -> Answer | None:
    """Ask once; None: the answer does not begin with the space that the prompt was asked less."""
    try:
        return _sent(question, asked, endpoint, call)
    except Refused as refused:
        if "max_completion_tokens" not in str(refused) or endpoint.token_field != "max_tokens":
            raise
        endpoint.token_field = "max_completion_tokens"
        return _sent(question, asked, endpoint, call)


def _sent(question: Question, asked: Asked, endpoint: Endpoint, call: Call) -> Answer | None:
    path, body = body_of(question, asked, endpoint)
    service = endpoint.service
    if call.hear is None and not _needs_stream(question):
        found = service.post(path, body, question.what, call.over)
        heard = whole(found, asked.chat, question, endpoint)
        return answer_of(question, heard)
    if endpoint.dialect.usage:
        body["stream_options"] = {"include_usage": True}
    body["stream"] = True
    told = _Teller(question, call)

    def once() -> Answer | None:
        with service.chunks(path, body, question.what, call.over) as chunks:
            return _listen(question, asked, endpoint, chunks, told)

    return service.attempt(once, call.over)


def _needs_stream(question: Question) -> bool:
    """Return whether the answer is looked at while it comes, to end it where nothing else would."""
    stops = question.stops
    return bool(question.steps) or isinstance(stops, re.Pattern) or len(stops) > MOST_STOPS


def _listen(
    question: Question, asked: Asked, endpoint: Endpoint, chunks: Any, told: _Teller
) -> Answer | None:
    """Read a streamed answer; leaving before its end closes the connection, which ends it there."""
    heard, some = Heard(), False
    for chunk in chunks:
        told.alive()
        some = add(heard, chunk, asked.chat, question, endpoint) or some
        if question.heal and heard.text and not heard.text.startswith(question.heal):
            return None
        if _has_all(question, heard.text):
            break
        told.show(heard.text, over=False)
    if not some:
        raise malformed(question, endpoint, "it has no choices")
    answer = answer_of(question, heard)
    if answer is not None and not answer.unsure:
        told.show(question.heal + answer.text, over=True)
    return answer


def _has_all(question: Question, text: str) -> bool:
    text = text[len(question.heal) :]
    if question.steps:
        return split(text, question.steps, over=False).ended
    return stop_place(question.stops, text) is not None


class _Teller:
    """Tells a listener an answer's text as it grows; what was told is never taken back."""

    def __init__(self, question: Question, call: Call) -> None:
        self._question = question
        self._call = call
        self._told = ""

    def alive(self) -> None:
        """Raise Cancelled when nobody waits for the answer any more."""
        if self._call.over.is_set():
            raise Cancelled

    def show(self, text: str, over: bool) -> None:
        """Tell what is certain of a text: not what may be the beginning of a stop."""
        question = self._question
        if self._call.hear is None or (not over and not _tellable(question)):
            return
        text = text[len(question.heal) :]
        certain = text if over else text[: len(text) - _held_back(question.stops, text)]
        if not certain.startswith(self._told) and not self._told.startswith(certain):
            raise Passing("cut", "another try said something else than what was shown already")
        if len(certain) > len(self._told):
            self._call.tell(certain[len(self._told) :])
            self._told = certain


def _tellable(question: Question) -> bool:
    """Return whether a text can be shown before its end: a pattern or a wrapper hides it."""
    plain = question.held.read is str
    return plain and not question.steps and not isinstance(question.stops, re.Pattern)


def _held_back(stops: tuple[str, ...] | re.Pattern[str], text: str) -> int:
    assert isinstance(stops, tuple)
    longest = max((len(stop) for stop in stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
