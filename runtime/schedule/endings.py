"""How generations end: at their limit, by a token, by what a constraint forces; what stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several

from ..constraints.watch import Finish
from ..memory.kv_cache import PagedKV
from ..memory.prefix_tree import PrefixTree
from .request import Request
from .row_costs import HitCounter

TURNS = 8
"""Steps in which each row of the batch is looked at once while the host waits."""


class Endings:
    """Closes generations; those that have been closed are taken by `done`."""

    def __init__(
        self, kv: PagedKV, tree: PrefixTree, hits: HitCounter, done: Callable[[Request], None]
    ) -> None:
        self._kv, self._tree, self._hits, self._done = kv, tree, hits, done
        self._turn = 0

    def force(self, request: Request) -> Finish | None:
        """Append what the constraint forces now; return how the generation ends, if it does."""
        assert request.watch is not None and request.sampling is not None
        while True:
            room = request.sampling.max_tokens - request.produced
            if room == 0:
                return Finish("length", -1)
            forced, finish = request.watch.take_forced(room)
            request.take(forced)
            request.token_logprobs += [None] * len(forced)
            if finish is not None or not forced:
                return finish

    def meanwhile(self, last: Iterable[Request], others: Several[Request]) -> None:
        """While draws are on their way, do what can be done of the ends of those whose `last` token
        comes, and of some `others`: that these may end together is no reason to wait for it all."""
        for request in last:
            if request.watch is None or request.watch.foresee(whole=True):
                self.remember(request)
        self._turn = (self._turn + 1) % TURNS
        for request in others[self._turn :: TURNS]:
            if request.watch is not None:
                request.watch.foresee()

    def last(self, request: Request, token: int, logprob: float, margin: float) -> None:
        """Close a generation that had left the batch when its last token was drawn."""
        finish = self.take(request, token, logprob, margin)
        self.finish(request, finish or Finish("length", -1))

    def take(self, request: Request, token: int, logprob: float, margin: float) -> Finish | None:
        """Give a generation that is not in the batch a token that was drawn for it; return how that
        ends it, if it does."""
        sampling = request.sampling
        assert sampling is not None
        request.margin = min(request.margin, margin)
        if token in sampling.ends:
            return Finish("end", -1)
        request.take((token,))
        if request.logprobs:
            request.token_logprobs.append(logprob)
        finish = None if request.watch is None else request.watch.accept(token)
        over = request.produced >= sampling.max_tokens
        return finish or (Finish("length", -1) if over else None)

    def finish(self, request: Request, finish: Finish) -> None:
        """Close a generation whose tokens are in its sequence; cut it back to what stays."""
        if request.watch is not None:
            finish = request.watch.settled(finish)
        request.reason = finish.reason
        sequence = request.sequence
        if finish.keep >= 0:
            self._kv.truncate(sequence, sequence.length - request.flushed + finish.keep)
            sequence.append(finish.tail)
            request.flushed = finish.keep + len(finish.tail)
            kept = request.token_logprobs[: finish.keep]
            request.token_logprobs = kept + [None] * len(finish.tail)
        if request.watch is not None:
            request.watch.close()
            request.error = request.problem()
        self.remember(request)
        self._done(request)

    def remember(self, request: Request) -> None:
        """Let other streams find what a generation has computed.

        Of one whose last token is on its way that is known before, unless it is likely to be cut
        back: the tree then keeps what nobody reads.
        """
        sequence = request.sequence
        if sequence.resident != sequence.remembered:
            tokens = sequence.tokens[: sequence.resident]
            self._tree.insert(tokens, sequence.pages, sequence)
            self._hits.known(tokens, sequence)
            sequence.remembered = sequence.resident
