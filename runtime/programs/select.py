"""select: options as a tree of tokens, scored by the model, and the rules that choose among them.

Each stretch of tokens that options share is computed once. `probs` are exact for the options'
canonical tokens: the softmax of their total log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ...ir.source import Span
from ..memory.sequence import Sequence as Tokens
from ..schedule.request import Request
from .tasks import Branches, Together

Scores = list[list[float]]
"""The log-probability of each token of each option."""


class Stretch:
    """Options that are the same up to somewhere, and what is fed of them without a choice between.

    Of the tokens of `options[member]` that of number `first` and those after it are asked for, up
    to where the options part.
    """

    __slots__ = ("asked", "below", "fed", "first", "members", "request")

    request: Request

    def __init__(
        self, options: Sequence[Sequence[int]], members: list[int], first: int, last: int | None
    ) -> None:
        """Ask from token number `first` on, and up to `last`, if that is given."""
        self.members, self.first = members, first
        self.asked: list[tuple[int, ...]] = []
        """The words that may come at each place."""
        self.below: list[list[int]] = []
        """Members that go on alike behind it, and have something to be asked there."""
        while len(members) > 1:
            at = first + len(self.asked)
            groups: dict[int, list[int]] = {}
            for member in members:
                if len(options[member]) > at:
                    groups.setdefault(options[member][at], []).append(member)
            self.asked.append(tuple(groups))
            longer = [some for some in groups.values() if _longest(options, some) > at + 1]
            if len(groups) > 1 or not longer or at == last:
                self.below = longer
                break
            (members,) = longer
        else:
            (member,) = members
            option = options[member]
            end = len(option) if last is None else last + 1
            at = first + len(self.asked)
            self.asked += [(token,) for token in option[at:end]]
            self.below = [members] if end < len(option) else []
        self.fed = options[members[0]][max(first - 1, 0) : first + len(self.asked) - 1]
        """The tokens that come before what is asked for; the first one's stream has some of them
        already."""

    def give(self, options: Sequence[Sequence[int]], found: Scores) -> None:
        """Add the log-probabilities that the request has found to those of each member."""
        after = self.request.scores[-len(self.asked) :]
        for member in self.members:
            ids = options[member][self.first : self.first + len(after)]
            found[member] += [values[id] for id, values in zip(ids, after, strict=False)]


def _longest(options: Sequence[Sequence[int]], members: Sequence[int]) -> int:
    return max(len(options[member]) for member in members)


class Scorer:
    """Scores options on forks of a sequence.

    `fork(sequence)` returns a fork, `free` gives one back, `call` waits for what it is given while
    the sequence is locked, `name` is for messages. With `at_once` all stretches are asked for at
    the same time: for a model whose steps may read what they themselves write.
    """

    def __init__(
        self,
        options: Sequence[Sequence[int]],
        fork: Callable[[Tokens], Tokens],
        free: Callable[[Tokens], None],
        call: Callable[[Tokens, Request | Together], Generator[Any, Any, Any]],
        name: str,
        row: int,
        critical: int = 0,
        span: Span | None = None,
        at_once: bool = False,
    ) -> None:
        self._span = span
        self._options = options
        self._fork = fork
        self._free = free
        self._call = call
        self._name = name
        self._row = row
        self._critical = critical
        self._at_once = at_once

    def run(self, sequence: Tokens, begun: Sequence[int] = ()) -> Generator[Any, Any, Scores]:
        """Score all options after `sequence`, whose last token's logits are computed, too.

        With `begun`, a beginning of all options (`beginning`), the sequence goes on with that, in
        the request that computes what comes before it: not a step later.
        """
        first = Stretch(self._options, [*range(len(self._options))], 0, len(begun))
        start = sequence.length - 1
        if begun:
            sequence.append(begun)
        first.request = self._request(sequence, start, first)
        self._found: Scores = [[] for _ in self._options]
        if self._at_once:
            yield from self._all(first)
        else:
            yield from self._call(sequence, first.request)
            first.give(self._options, self._found)
            yield from self._below(first)
        return self._found

    def _all(self, first: Stretch) -> Generator[Any, Any, None]:
        """Have a stretch and all that stands below it scored side by side.

        What nothing goes on behind is freed when it is scored, the others when all are.
        """
        stretches = [first]
        for stretch in stretches:
            stretches += [self._next(stretch, members) for members in stretch.below]
        ends = {each.request for each in stretches[1:] if not each.below}

        def done(request: Request) -> None:
            if request in ends:
                self._free(request.sequence)

        asked = [stretch.request for stretch in stretches]
        yield from self._call(first.request.sequence, Together(asked, done))
        for stretch in stretches:
            stretch.give(self._options, self._found)
            if stretch is not first and stretch.below:
                self._free(stretch.request.sequence)

    def _below(self, stretch: Stretch) -> Generator[Any, Any, None]:
        """Have all scored that stands below a stretch that is scored."""
        if stretch.below:
            yield Branches([self._branch(stretch, members) for members in stretch.below])

    def _branch(self, before: Stretch, members: list[int]) -> Generator[Any, Any, None]:
        stretch = self._next(before, members)
        yield stretch.request
        stretch.give(self._options, self._found)
        yield from self._below(stretch)
        self._free(stretch.request.sequence)

    def _next(self, before: Stretch, members: list[int]) -> Stretch:
        """Return what feeds the token in which members part from others, and what follows it."""
        after = Stretch(self._options, members, before.first + len(before.asked), None)
        sequence = self._fork(before.request.sequence)
        start = sequence.length
        sequence.append(after.fed)
        after.request = self._request(sequence, start, after)
        after.request.behind = before.request if self._at_once else None
        return after

    def _request(self, sequence: Tokens, start: int, stretch: Stretch) -> Request:
        """Return what scores the tokens that a stretch asks for, from a position on."""
        return Request(
            sequence, self._name, score_from=start, row=self._row, same="score",
            asked=stretch.asked, critical=self._critical, span=self._span,
        )  # fmt: skip


def beginning(options: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all options begin with and at least one goes on behind."""
    shared = []
    for tokens in zip(*options, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return shared[: max(map(len, options)) - 1]


def choose(by: str, scores: Scores, unconditional: Scores | None = None) -> int:
    """Return the number of the option that a rule prefers; the first of equals.

    `token_normalized`: the largest mean log-probability. `greedy`: token by token, the likeliest;
    an option that has ended goes on with its mean. `unconditional`: the largest mean gain over
    the log-probability without the prompt.
    """
    if by == "greedy":
        longest = max(len(score) for score in scores)
        keys: list[Any] = [
            tuple(score + [_mean(score)] * (longest - len(score))) for score in scores
        ]
    elif by == "unconditional":
        assert unconditional is not None
        keys = [
            _mean([a - b for a, b in zip(score, base, strict=True)])
            for score, base in zip(scores, unconditional, strict=True)
        ]
    else:
        keys = [_mean(score) for score in scores]
    return max(range(len(keys)), key=lambda number: keys[number])


def shares(options: Sequence[str], scores: Scores) -> dict[str, float]:
    """Return each option's share of the options' total probability.

    An option that is listed twice is one text: it counts once, and the shares add up to 1.
    """
    totals = {option: sum(score) for option, score in zip(options, scores, strict=True)}
    top = max(totals.values())
    weights = {option: math.exp(total - top) for option, total in totals.items()}
    whole = sum(weights.values())
    return {option: weight / whole for option, weight in weights.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
