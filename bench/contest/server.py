"""An engine as a server: prompts come in whole, as text; text and scores go out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count
from typing import Any

from weft.ir.vocabulary import Part, Tokenizer, encode_parts
from weft.runtime.constraints.heal import HealTable
from weft.runtime.constraints.stops import TokenBytes
from weft.runtime.constraints.watch import Watch
from weft.runtime.engine import Engine
from weft.runtime.schedule.request import Request, Sampling

from .grammars import Grammars

Step = Generator[Any, Any, Any]


class Server:
    """An engine behind requests: full prompts in, text or scores out.

    Requests are served first come, first served, SGLang's default since 2025-03.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, grammars: Grammars) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.grammars = grammars
        self.words = TokenBytes(tokenizer)
        self.heals = HealTable(tokenizer, engine.executor.vocab_size)
        self._arrivals = count()

    def generate(
        self, parts: Sequence[Part], name: str, sampling: Sampling, watch: Watch | None, row: int,
        logprobs: bool,
    ) -> Step:  # fmt: skip
        """Return the finished request of a prompt; its tokens are in `generated`."""
        request = self._request(encode_parts(self.tokenizer, parts), name, row)
        request.sampling, request.watch, request.logprobs = sampling, watch, logprobs
        yield from self._serve(request)
        return request

    def prefill(self, parts: Sequence[Part], name: str, row: int) -> Step:
        """Compute a prompt and generate nothing."""
        yield from self._serve(self._request(encode_parts(self.tokenizer, parts), name, row))

    def score(self, prompt: Sequence[int], option: Sequence[int], name: str, row: int) -> Step:
        """Return the log-probability of each token of `option` after `prompt`."""
        request = self._request([*prompt, *option], name, row)
        request.score_from = len(prompt) - 1
        request.asked = [(token,) for token in option]
        yield from self._serve(request)
        return [request.scores[at][token] for at, token in enumerate(option)]

    def _request(self, ids: Sequence[int], name: str, row: int) -> Request:
        sequence = self.engine.create((next(self._arrivals),))
        sequence.append(ids)
        return Request(sequence, name, row=row)

    def _serve(self, request: Request) -> Step:
        try:
            yield request
        finally:
            self.engine.take_prefix_hits(request.order[0])
            self.engine.free(request.sequence)
