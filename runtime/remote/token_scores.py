"""The log-probability of each token of a given text, by what an endpoint offers for it."""

from __future__ import annotations

from typing import Any

from .answers import logprob_of, token_logprobs
from .endpoint import TEXT, Endpoint
from .errors import MissingRoute, Refused
from .line import Over

_SURE = 100.0
"""A bias that makes a token the likeliest one."""

FEW = 3
"""Tokens of an echo, at most, that may have no log-probability but the one behind the prompt: a
special one at its beginning, and the first."""


def echoed(prompt: str, text: str, endpoint: Endpoint, what: str, over: Over) -> list[float] | None:
    """Return the log-probabilities of the tokens of `text` after `prompt`; None: the endpoint
    echoes none; none of them: not those of this text.

    A token that the end of the prompt and the text share counts as the text's: its probability is
    that of both. One that the prompt has alone does not.
    """
    name = endpoint.service.name()
    body = {"model": name, "prompt": prompt + text, "max_tokens": 1, "temperature": 0.0,
            "echo": True, "logprobs": 1, **endpoint.dialect.neutral}  # fmt: skip
    try:
        found = endpoint.service.post(TEXT, body, what, over)
    except (Refused, MissingRoute):
        return None
    choices = found.get("choices") or [{}]
    given, said = choices[0].get("logprobs"), choices[0].get("text")
    if not isinstance(given, dict) or not isinstance(said, str) or not said.startswith(prompt):
        return None
    tokens, values = given.get("tokens") or [], given.get("token_logprobs") or []
    none = not values or (len(tokens) > FEW and all(value is None for value in values[1:-1]))
    if not tokens or none:
        return None
    return _of_stretch(tokens, values, said, len(prompt), len(prompt) + len(text))


def _of_stretch(
    tokens: list[str], values: list[Any], said: str, start: int, end: int
) -> list[float]:  # fmt: skip
    """Return the log-probabilities of the tokens that reach into a stretch of a text.

    Tokens are laid along the text from its end, as special ones at its beginning read as nothing;
    none where they are not the text's, or one has none, as the first of a text has.
    """
    found: list[float] = []
    at = len(said)
    for token, value in zip(reversed(tokens), reversed(values), strict=False):
        after, at = at, at - len(token)
        if after <= start:
            break
        if said[max(at, 0) : after] != token:
            return []
        if at < end:
            if value is None:
                return []
            found.append(logprob_of(value))
    return found[::-1]


def one_by_one(
    prompt: str, text: str, endpoint: Endpoint, what: str, over: Over
) -> list[float] | None:
    """Return the log-probabilities of a text's own tokens, each made certain by a bias.

    Where the endpoint gives the log-probabilities of before the bias; None where the end of the
    prompt and the text share a token.
    """
    before, ids = (_ids(endpoint, said, what, over) for said in (prompt, prompt + text))
    if ids[: len(before)] != before:
        return None
    scores: list[float] = []
    for id in ids[len(before) :]:
        body = {"model": endpoint.service.name(), "prompt": prompt, "max_tokens": 1,
                "temperature": 0.0, "logprobs": 1, "logit_bias": {str(id): _SURE},
                **endpoint.dialect.neutral}  # fmt: skip
        found = endpoint.service.post(TEXT, body, what, over)
        said = token_logprobs((found.get("choices") or [{}])[0].get("logprobs"))
        if not said or not text.startswith(said[0][0]):
            return None
        scores.append(said[0][1])
        prompt, text = prompt + said[0][0], text[len(said[0][0]) :]
    return scores


def _ids(endpoint: Endpoint, text: str, what: str, over: Over) -> list[int]:
    """Return the ids of a text by the endpoint's own tokenizer."""
    body = {"model": endpoint.service.name(), "input": text}
    found = endpoint.service.post(endpoint.dialect.tokenize, body, what, over).get("tokens")
    return list(found) if isinstance(found, list) else []
