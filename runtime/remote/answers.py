"""What an endpoint answers, in either form of the API: text, stops, log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import Any

from ..constraints.stops import pattern_start
from .consecutive import Split, split, within_budget
from .endpoint import Endpoint
from .errors import Lacks, Malformed
from .question import Question
from .service import first_choice

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
class Heard:
    """An answer as it comes in."""

    text: str = ""
    finish: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0
    pieces: int = 0


def stop_place(stops: tuple[str, ...] | re.Pattern[str], text: str) -> int | None:
    """Return where the first stop begins in a text."""
    if isinstance(stops, re.Pattern):
        data = text.encode()
        place = pattern_start(stops, data)
        return None if place is None else len(data[:place].decode("utf-8", "replace"))
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def whole(found: Any, chat: bool, question: Question, endpoint: Endpoint) -> Heard:
    """Return an answer that came at once; raises Malformed."""
    heard = Heard()
    if not add(heard, found, chat, question, endpoint):
        raise malformed(question, endpoint, "it has no choices")
    return heard


def add(
    heard: Heard, found: Mapping[str, Any], chat: bool, question: Question, endpoint: Endpoint
) -> bool:  # fmt: skip
    """Add an answer, or a chunk of one; return whether it had a choice; raises Malformed."""
    usage = found.get("usage")
    if isinstance(usage, dict):
        heard.prompt_tokens = token_count(usage.get("prompt_tokens")) or heard.prompt_tokens
        heard.generated_tokens = (
            token_count(usage.get("completion_tokens")) or heard.generated_tokens
        )
    choice = first_choice(found)
    if choice is None:
        return False
    message = choice.get("message") or choice.get("delta")
    text = message.get("content") if chat and isinstance(message, dict) else choice.get("text")
    if text is not None and not isinstance(text, str):
        raise malformed(question, endpoint, f"its text is {type(text).__name__}")
    heard.text += _whole_characters(text or "")
    heard.pieces += bool(text)
    heard.finish = str(choice.get("finish_reason") or heard.finish)
    try:
        heard.tokens += token_logprobs(choice.get("logprobs"))
    except NO_LOGPROBS as error:
        raise malformed(question, endpoint, f"its logprobs: {error!r}") from None
    if heard.finish in _NOT_SAID:
        raise malformed(question, endpoint, f"it ended with {heard.finish!r}")
    return True


def token_count(given: Any) -> int:
    """Return a count of tokens; 0, as if none were given, for what is none."""
    return given if isinstance(given, int) and given > 0 else 0


def _whole_characters(text: str) -> str:
    """Return a text without halves of surrogate pairs: JSON can escape what nothing encodes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


NO_LOGPROBS = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What reading log-probabilities raises where an answer gives them in another form."""


def logprob_of(value: Any) -> float:
    """Return one log-probability; raises NO_LOGPROBS, for NaN too."""
    found = float(value)
    if isnan(found):
        raise ValueError("NaN is no log-probability")
    return found


def token_logprobs(found: Any) -> tuple[tuple[str, float], ...]:
    """Return the tokens of an answer with their log-probabilities, in either form; raises
    NO_LOGPROBS."""
    if not isinstance(found, dict):
        return ()
    if found.get("content"):
        return tuple((str(item["token"]), logprob_of(item["logprob"])) for item in found["content"])
    pairs = zip(found.get("tokens") or (), found.get("token_logprobs") or (), strict=False)
    return tuple((str(token), logprob_of(value or 0.0)) for token, value in pairs)


def answer_of(question: Question, heard: Heard) -> Answer | None:
    """Return what an answer means for its gen; None where it lacks the space that was healed."""
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


def _shared(question: Question, text: str, heard: Heard) -> tuple[str, ...]:
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


def malformed(question: Question, endpoint: Endpoint, problem: str) -> Malformed:
    """Return the error for an answer that is not of the API's form."""
    url = endpoint.service.address.base
    return Malformed(what=question.what, url=url, problem=problem, span=question.span)
