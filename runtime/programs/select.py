"""select: options as a token trie, scored by the model, and the rules that choose among them.

Each stretch of tokens that options share is computed once. `probs` are exact for the options'
canonical tokens: the softmax of their total log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from ...ir.source import Span
from ..memory.sequence import Sequence as Tokens
from ..schedule.request import Request
from .tasks import Branches

Scores = list[list[float]]
"""The log-probability of each token of each option."""


class Trie:
    """A node of the options' trie: what may come next."""

    __slots__ = ("after", "children")

    def __init__(self) -> None:
        self.children: dict[int, Trie] = {}
        self.after: Mapping[int, float] = {}
        """The log-probability of each token that may come next, once it is scored."""

    @staticmethod
    def of(options: Sequence[Sequence[int]]) -> Trie:
        """Return the root of a trie of token lists."""
        root = Trie()
        for ids in options:
            node = root
            for id in ids:
                child = node.children.get(id)
                if child is None:
                    child = node.children[id] = Trie()
                node = child
        return root


class Scorer:
    """Scores a trie's options on forks of a sequence.

    `fork(sequence)` returns a fork, `free` gives one back, `call` runs the request on
    the sequence itself, `name` is for messages.
    """

    def __init__(
        self,
        options: Sequence[Sequence[int]],
        fork: Callable[[Tokens], Tokens],
        free: Callable[[Tokens], None],
        call: Callable[[Request], Generator[Any, Any, Request]],
        name: str,
        row: int,
        critical: int = 0,
        span: Span | None = None,
    ) -> None:
        self._span = span
        self._options = options
        self._fork = fork
        self._free = free
        self._call = call
        self._name = name
        self._row = row
        self._critical = critical

    def run(self, sequence: Tokens, begun: Sequence[int] = ()) -> Generator[Any, Any, Scores]:
        """Score all options after `sequence`, whose last token's logits are computed, too.

        With `begun`, a beginning of all options (`beginning`), the sequence goes on with that, in
        the request that computes what comes before it: not a step later.
        """
        trie = Trie.of(self._options)
        nodes, start = [trie], sequence.length - 1
        for token in begun:
            nodes.append(nodes[-1].children[token])
        if begun:
            sequence.append(begun)
        done = yield from self._call(self._request(sequence, start, nodes))
        for node, after in zip(nodes, done.scores[-len(nodes) :], strict=True):
            node.after = after
        yield from self._below(sequence, nodes[-1])
        return [_along(trie, ids) for ids in self._options]

    def _below(self, sequence: Tokens, node: Trie) -> Generator[Any, Any, None]:
        """Have all scored that stands below a node, to which `sequence` leads."""
        branches = [self._branch(sequence, token, child)
                    for token, child in node.children.items() if child.children]  # fmt: skip
        if branches:
            yield Branches(branches)

    def _branch(self, parent: Tokens, token: int, node: Trie) -> Generator[Any, Any, None]:
        """Feed a token and all that follow it without a choice; go on where options part."""
        stretch, nodes, children = [token], [node], node.children
        while len(children) == 1:
            ((token, node),) = children.items()
            children = node.children
            if not children:
                break
            stretch.append(token)
            nodes.append(node)
        sequence = self._fork(parent)
        start = sequence.length
        sequence.append(stretch)
        done = yield self._request(sequence, start, nodes)
        for node, after in zip(nodes, done.scores[-len(nodes) :], strict=True):
            node.after = after
        yield from self._below(sequence, nodes[-1])
        self._free(sequence)

    def _request(self, sequence: Tokens, start: int, nodes: Sequence[Trie]) -> Request:
        """Return what scores the tokens that may come at each of the last nodes."""
        return Request(
            sequence, self._name, score_from=start, row=self._row, same="score",
            asked=[tuple(node.children) for node in nodes],
            critical=self._critical, span=self._span,
        )  # fmt: skip


def _along(trie: Trie, ids: Sequence[int]) -> list[float]:
    """Return the log-probability of each token of an option."""
    found = []
    for id in ids:
        found.append(trie.after[id])
        trie = trie.children[id]
    return found


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
