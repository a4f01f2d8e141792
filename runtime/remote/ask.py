"""Asks one question, whole or streamed, and reads the answer: text, stops, log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...ir.core import Term
from ..stops import pattern_start
from .consecutive import Split, split, within_budget
from .dialects import Held, Holding
from .endpoint import CHAT, TEXT, Endpoint
from .errors import Lacks, Malformed, MissingRoute, Refused
from .failures import Passing
from .pool import Call
from .question import MOST_STOPS, Asked, Question, body_of
from .service import Cancelled

CUT = "length"
"""The finish reason of an answer that the budget has ended."""

_NOT_SAID = frozenset({"content_filter", "tool_calls", "function_call"})


@dataclass(frozen=True)
class Answer:
    """What the model said: the gen's text, then those of gens after it that it holds, too.

    `unsure`: the gen was asked for together with others, and its own text cannot be told.
    """

    text: str
    finish: str = "stop"
    logprobs: tuple[float, ...] | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    more: tuple[str, ...] = ()
    unsure: bool = False


@dataclass
class _Heard:
    """An answer as it comes in."""

    text: str = ""
    finish: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0
    pieces: int = 0


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
            raise _malformed(question, endpoint, "its text does not fit the grammar that was sent")
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
        heard = _whole(found, asked.chat, question, endpoint)
        return _answer(question, heard)
    if endpoint.dialect.usage:
        body["stream_options"] = {"include_usage": True}
    body["stream"] = True
    told = _Teller(question, call)

    def once() -> Answer | None:
        with service.chunks(path, body, question.what) as chunks:
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
    heard = _Heard()
    for chunk in chunks:
        told.alive()
        _add(heard, chunk, asked.chat, question, endpoint)
        if question.heal and heard.text and not heard.text.startswith(question.heal):
            return None
        if _has_all(question, heard.text):
            break
        told.show(heard.text, over=False)
    answer = _answer(question, heard)
    if answer is not None and not answer.unsure:
        told.show(question.heal + answer.text, over=True)
    return answer


def _has_all(question: Question, text: str) -> bool:
    text = text[len(question.heal) :]
    if question.steps:
        return split(text, question.steps, over=False).ended
    return stop_place(question.stops, text) is not None


def stop_place(stops: tuple[str, ...] | re.Pattern[str], text: str) -> int | None:
    """Return where the first stop begins in a text."""
    if isinstance(stops, re.Pattern):
        data = text.encode()
        place = pattern_start(stops, data)
        return None if place is None else len(data[:place].decode("utf-8", "replace"))
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


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


# Answers, as the two forms of calls have them.


def _whole(found: Any, chat: bool, question: Question, endpoint: Endpoint) -> _Heard:
    heard = _Heard()
    if not _add(heard, found, chat, question, endpoint):
        raise _malformed(question, endpoint, "it has no choices")
    return heard


def _add(heard: _Heard, found: Mapping[str, Any], chat: bool, question: Question,
         endpoint: Endpoint) -> bool:  # fmt: skip
    """Add an answer, or a chunk of one; return whether it had a choice."""
    usage = found.get("usage")
    if isinstance(usage, dict):
        heard.prompt_tokens = int(usage.get("prompt_tokens") or heard.prompt_tokens)
        heard.generated_tokens = int(usage.get("completion_tokens") or heard.generated_tokens)
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    choice = choices[0]
    message = choice.get("message") or choice.get("delta") or {}
    text = message.get("content") if chat else choice.get("text")
    if text is not None and not isinstance(text, str):
        raise _malformed(question, endpoint, f"its text is {type(text).__name__}")
    heard.text += text or ""
    heard.pieces += bool(text)
    heard.finish = choice.get("finish_reason") or heard.finish
    heard.tokens += token_logprobs(choice.get("logprobs"))
    if heard.finish in _NOT_SAID:
        raise _malformed(question, endpoint, f"it ended with {heard.finish!r}")
    return True


def token_logprobs(found: Any) -> tuple[tuple[str, float], ...]:
    """Return the tokens of an answer with their log-probabilities, in either form."""
    if not isinstance(found, dict):
        return ()
    if found.get("content"):
        return tuple((str(item["token"]), float(item["logprob"])) for item in found["content"])
    pairs = zip(found.get("tokens") or (), found.get("token_logprobs") or (), strict=False)
    return tuple((str(token), float(value or 0.0)) for token, value in pairs)


def _answer(question: Question, heard: _Heard) -> Answer | None:
    if question.heal and not heard.text.startswith(question.heal):
        return None
    text = heard.text[len(question.heal) :]
    texts = (text,)
    if question.steps:
        texts = _shared(question, text, heard)
        if not texts:
            return Answer("", unsure=True, prompt_tokens=heard.prompt_tokens)
    at = None if question.steps else stop_place(question.stops, text)
    first = texts[0] if at is None else text[:at]
    logprobs = None
    if question.logprobs:
        if not heard.tokens:
            raise Lacks(what=question.what, span=question.span, lack=_NO_LOGPROBS, hint=_LOGPROBS)
        logprobs = _kept(heard.tokens, len(question.heal) + len(first))
    return Answer(
        question.held.read(first), heard.finish, logprobs, heard.prompt_tokens,
        heard.generated_tokens or len(heard.tokens) or heard.pieces, texts[1:],
    )  # fmt: skip


_NO_LOGPROBS = "the endpoint gives no log-probabilities"
_LOGPROBS = "leave out logprobs=true, or use a server that gives them (vLLM, SGLang, llama.cpp)"


def _shared(question: Question, text: str, heard: _Heard) -> tuple[str, ...]:
    """Return the texts of gens that shared an answer, as far as they surely are what they mean.

    Empty where not even the first one is: then it has to be asked for alone.
    """
    found: Split = split(text, question.steps, over=True, cut=heard.finish == CUT)
    known = heard.generated_tokens or None
    texts: list[str] = []
    for said, step in zip(found.texts, question.steps, strict=False):
        if not within_budget(said, step, known):
            break
        texts.append(said)
    return tuple(texts)


def _kept(tokens: tuple[tuple[str, float], ...], length: int) -> tuple[float, ...]:
    """Return the log-probabilities of the tokens that begin before a length of text."""
    kept: list[float] = []
    at = 0
    for token, logprob in tokens:
        if at >= length:
            break
        kept.append(logprob)
        at += len(token)
    return tuple(kept)


def _malformed(question: Question, endpoint: Endpoint, problem: str) -> Malformed:
    url = endpoint.service.address.base
    return Malformed(what=question.what, url=url, problem=problem, span=question.span)
