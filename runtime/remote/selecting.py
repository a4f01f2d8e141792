"""select and score by an endpoint's log-probabilities: of echoed prompts, or of first tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...ir.source import Span
from ..programs.select import choose, shares
from .answers import NO_LOGPROBS, logprob_of, token_count, token_logprobs
from .endpoint import CHAT, TEXT, Endpoint
from .errors import Lacks, Malformed, MissingRoute
from .line import Over
from .prompt import Stream
from .question import Asked, continuation
from .token_scores import echoed, one_by_one

TOP = 20
"""How many of the likeliest first tokens the API gives at most; some servers give 5."""


@dataclass(frozen=True)
class Picked:
    """The option that was chosen, each option's probability, and the tokens that it took."""

    option: str
    probs: dict[str, float]
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Choice:
    """A select at a prompt state."""

    what: str
    stream: Stream
    options: Sequence[str]
    by: str
    span: Span | None = None

    def lacks(self, lack: str, hint: str) -> Lacks:
        """Return the refusal of this select."""
        return Lacks(what=self.what, span=self.span, lack=lack, hint=hint)

    @contextmanager
    def reading(self, endpoint: Endpoint) -> Iterator[None]:
        """Read what an endpoint gives for this select; raises Malformed for another form."""
        try:
            yield
        except NO_LOGPROBS as error:
            url, problem = endpoint.service.address.base, f"its logprobs: {error!r}"
            raise Malformed(what=self.what, url=url, problem=problem, span=self.span) from None


def picked_by(choice: Choice, scores: list[list[float]]) -> Picked:
    """Return the option that the log-probabilities of all options' tokens choose."""
    best = choose(choice.by, scores)
    return Picked(choice.options[best], shares(choice.options, scores))


def scored(
    choice: Choice, text: str, asked: Asked, endpoint: Endpoint, over: Over
) -> list[float] | None:
    """Return the log-probabilities of the tokens of one option; None where none are given.

    They are those of a prompt that is echoed, or of tokens that are asked for one by one.
    """
    if endpoint.lacks_echo or (asked.chat and not endpoint.lacks_chat):
        return None
    prompt = choice.stream.text(asked.format)
    if prompt.endswith(" ") and choice.stream.may_heal:  # the option has it, as on our own engine
        prompt, text = prompt[:-1], " " + text
    with choice.reading(endpoint):
        if endpoint.dialect.tokenize:
            return one_by_one(prompt, text, endpoint, choice.what, over)
        found = echoed(prompt, text, endpoint, choice.what, over)
    if found is None:
        endpoint.lacks_echo = True
    return found or None


def by_first_token(
    choice: Choice, asked: Asked, endpoint: Endpoint, over: Over
) -> Picked:  # fmt: skip
    """Choose by the likeliest first tokens; raises Lacks where they do not decide."""
    chat = asked.chat and not endpoint.lacks_chat
    try:
        top, prompt_tokens = _first_tokens(choice, asked, endpoint, over, chat)
    except MissingRoute:
        if not chat or asked.fixed:
            raise
        top, prompt_tokens = _first_tokens(choice, asked, endpoint, over, chat=False)
        endpoint.lacks_chat = True
    if not top:
        lack = "the endpoint gives no log-probabilities, which a select chooses by"
        raise choice.lacks(lack, _MEND)
    masses = _masses(choice, top)
    known = {number: mass for number, mass in masses.items() if mass > 0.0}
    if not known:
        lack = f"none of its options begins with one of the {len(top)} likeliest tokens"
        raise choice.lacks(lack, _MEND)
    total = sum(known.values())
    best = max(known, key=lambda number: known[number])
    probs = {o: masses[n] / total for n, o in enumerate(choice.options)}
    return Picked(choice.options[best], probs, prompt_tokens)


_MEND = (
    "use gen with choice[...], or a server whose /completions echoes log-probabilities of prompts "
    "(vLLM, llama.cpp's Python server), with a program of plain text or --remote template=..."
)


def _masses(choice: Choice, top: list[tuple[str, float]]) -> dict[int, float]:
    """Return the probability of each option's first tokens; raises Lacks where they do not decide.

    A token speaks for an option that begins with it, if no other option does. Longer options are
    decided by their first tokens only if the select goes by them. Unless it does, a token that only
    begins options says nothing of those that are among the tokens as a whole.
    """
    masses = dict.fromkeys(range(len(choice.options)), 0.0)
    whole = {token.strip() for token, _ in top} if choice.by != "greedy" else set()
    for token, logprob in top:
        text = token.strip()
        if not text:
            continue
        fits = [n for n, option in enumerate(choice.options) if option.strip().startswith(text)]
        begun = {choice.options[n].strip() for n in fits}
        if text not in begun and begun <= whole:
            continue
        if len(fits) > 1:
            lack = f"{len(fits)} options begin with {text!r}, and only first tokens are scored"
            raise choice.lacks(lack, "give options that differ from their beginning on")
        if fits and choice.by != "greedy" and choice.options[fits[0]].strip() != text:
            lack = (f"the option {choice.options[fits[0]]!r} is more than one token, and only "
                    "first tokens are scored")  # fmt: skip
            raise choice.lacks(lack, 'choose by="greedy", or options of one token, as A, B, C')
        for number in fits:
            masses[number] += math.exp(logprob)
    return masses


def _first_tokens(
    choice: Choice, asked: Asked, endpoint: Endpoint, over: Over, chat: bool
) -> tuple[list[tuple[str, float]], int]:
    """Return the likeliest first tokens of the answer with their log-probabilities."""
    body: dict[str, Any] = {"model": endpoint.service.name(), "temperature": 0.0}
    stream = choice.stream
    if stream.opening.endswith(" ") and stream.may_heal:
        stream = stream.without_space()
    if chat:
        body |= {"messages": stream.messages(), endpoint.token_field: 1, "logprobs": True,
                 "top_logprobs": TOP}  # fmt: skip
        body |= continuation(choice.what, stream, choice.span, endpoint)
    else:
        body |= {"prompt": stream.text(asked.format), "max_tokens": 1, "logprobs": 5}
    body |= endpoint.dialect.neutral
    found = endpoint.service.post(CHAT if chat else TEXT, body, choice.what, over)
    usage = found.get("usage")
    tokens = token_count(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0
    with choice.reading(endpoint):
        return _top_of((found.get("choices") or [{}])[0].get("logprobs")), tokens


def _top_of(found: Any) -> list[tuple[str, float]]:
    if not isinstance(found, dict):
        return []
    if found.get("content"):
        first = found["content"][0]
        rows = first.get("top_logprobs") or [first]
        return [(str(row["token"]), logprob_of(row["logprob"])) for row in rows]
    tops = found.get("top_logprobs")
    if tops and isinstance(tops[0], dict):
        return [(str(token), logprob_of(value)) for token, value in tops[0].items()]
    return list(token_logprobs(found)[:1])
