"""Perplexity of held-out text where every token attends as a decoded one does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..options import BadOption
from .attention import Judged
from .subject import BadText, Tested

SHORTEST = 33
"""Tokens of a sequence whose predictions, one fewer, are worth counting."""


@dataclass(frozen=True)
class Perplexity:
    """Of all predicted tokens, and of those whose context is longer than `beyond` tokens.

    `loss` is relative to dense attention on the same tokens: exp(mean difference) - 1, and
    `error` the standard error of the mean difference over tokens.
    """

    all: float
    beyond: float
    loss: float
    error: float
    tokens: int


def perplexity(
    subject: Tested, attentions: Sequence[Judged], text: str, chunk: int, limit: int, beyond: int
) -> dict[str, Perplexity]:
    """Return the perplexities over chunks of `chunk` tokens, at most `limit` tokens in all."""
    start = [part for part in subject.checkpoint.chat.start() if isinstance(part, int)]
    ids = subject.checkpoint.tokenizer.encode(text)[:limit]
    size = chunk - len(start)
    _check(len(start) + min(len(ids), size), len(ids), chunk, limit, beyond)
    losses: dict[str, list[torch.Tensor]] = {each.name: [] for each in attentions}
    places: list[torch.Tensor] = []
    for at in range(0, len(ids), size):
        row = [*start, *ids[at : at + size]]
        if len(row) < SHORTEST:
            break
        places.append(torch.arange(1, len(row)))
        for each in attentions:
            losses[each.name].append(_losses(subject, each, row))
    late = torch.cat(places) > beyond
    return _summary({name: torch.cat(parts) for name, parts in losses.items()}, late)


def _check(longest: int, read: int, chunk: int, limit: int, beyond: int) -> None:
    """Raise BadOption where no row, the longest of which has `longest` tokens, can have any past
    `beyond` because of the options; BadText where the text is too short, with `read` tokens."""
    least = max(SHORTEST, beyond + 2)
    if longest >= least:
        return
    for name, given in (("chunk", chunk), ("tokens", limit)):
        if given < least and (name == "chunk" or read == limit):
            problem = f"--{name} {given} leaves no token after a context longer than {beyond}"
            raise BadOption(
                problem=problem, hint=f"give --{name} {least} or more, or lower --beyond"
            )
    if longest < SHORTEST:
        raise BadText(file="the text", problem=f"has fewer than {SHORTEST} tokens")
    problem = f"has no part longer than {beyond} tokens, where policies begin to select"
    raise BadText(file="the text", problem=problem)


def _losses(subject: Tested, each: Judged, row: list[int]) -> torch.Tensor:
    """Return the negative log-likelihood of every token of a row but the first."""
    scores = subject.whole(row, subject.attention_of(each))[:-1].double().log_softmax(-1)
    wanted = torch.tensor(row[1:], device=scores.device)[:, None]
    return -scores.gather(1, wanted)[:, 0].cpu()


def _summary(losses: dict[str, torch.Tensor], late: torch.Tensor) -> dict[str, Perplexity]:
    dense, count = losses["dense"][late], int(late.sum())
    found = {}
    for name, each in losses.items():
        change = each[late] - dense
        found[name] = Perplexity(
            math.exp(each.mean()), math.exp(each[late].mean()), math.expm1(change.mean()),
            float(change.std(correction=0)) / math.sqrt(count), count,
        )  # fmt: skip
    return found
