"""An engine as a server: prompts come in whole, as text; text and scores go out."""

from __future__ import annotations

import re
from collections.abc import Generator
from itertools import count
from typing import Any, Protocol

from weft.ir.vocabulary import Tokenizer
from weft.runtime.constraints.heal import HealTable
from weft.runtime.constraints.stops import TokenBytes
from weft.runtime.constraints.watch import Watch
from weft.runtime.engine import Engine
from weft.runtime.schedule.request import Request, Sampling

from .asked import GENERATE, SCORE, Asked, Encoded, Told, decode, encode
from .grammars import Grammars

Step = Generator[Any, Any, Any]


class Serves(Protocol):
    """What a client needs of a server, in its own process or behind HTTP."""

    engine: Any
    """What a `TaskLoop` drives: it takes what `ask` yields."""

    def ask(self, asked: Asked) -> Step:
        """Return what is `Said`."""
        ...


class Server:
    """An engine behind requests: full prompts in, text or scores out.

    Requests are served first come, first served, SGLang's default since 2025-03.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, grammars: Grammars) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.grammars = grammars
        self.words = TokenBytes(tokenizer)
        self.heals = HealTable(tokenizer, engine.executor.vocab_size, (" ",))
        self._arrivals = count()

    def ask(self, asked: Asked) -> Step:
        """Return what is `Said`: tokenize, serve, and tell the text."""
        told = yield from self.serve(asked, encode(self.tokenizer, asked))
        return decode(self.tokenizer, asked, told)

    def serve(self, asked: Asked, tokens: Encoded) -> Step:
        """Return what is `Told` of tokens: what the engine's process does of a request."""
        request = self._request(asked, tokens)
        try:
            yield request
        finally:
            self.engine.take_prefix_hits(request.order[0])
            self.engine.free(request.sequence)
        if asked.kind == SCORE:
            return Told((), [request.scores[at][token] for at, token in enumerate(tokens.option)])
        if asked.kind == GENERATE:
            return Told(request.generated().tolist(), request.token_logprobs)
        return Told()

    def _request(self, asked: Asked, tokens: Encoded) -> Request:
        drawn = None
        if asked.kind == GENERATE:  # may be refused: nothing is held yet
            ends = tuple(self.tokenizer.end_ids)
            drawn = Sampling(ends=ends, **asked.sampling), self._watch(asked)
        sequence = self.engine.create((next(self._arrivals),))
        sequence.append([*tokens.prompt, *tokens.option])
        request = Request(sequence, asked.name, row=asked.row)
        if asked.kind == SCORE:
            request.score_from = len(tokens.prompt) - 1
            request.asked = [(token,) for token in tokens.option]
        elif drawn is not None:
            (request.sampling, request.watch), request.logprobs = drawn, asked.logprobs
        return request

    def _watch(self, asked: Asked) -> Watch | None:
        stops = re.compile(asked.pattern) if asked.pattern else asked.stops
        if asked.constraint is not None:
            matcher: Any = self.grammars.start(*asked.constraint, asked.heal)
        else:
            matcher = self.heals.start(asked.heal) if asked.heal else None
        if matcher is None and not stops:
            return None
        return Watch(self.words, matcher, stops, None, asked.heal)
