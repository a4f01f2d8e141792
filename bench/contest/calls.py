"""The model calls of a run, what of each prompt had not to be computed, and what need not have.

Independent of the engine's own books: calls are noted where requests come in, tokens with KV where
the scheduler admits them, and the ideal is worked out from the tokens alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from weft.runtime.engine import Engine
from weft.runtime.schedule.request import Request


@dataclass(eq=False)
class Call:
    """One request: the prompt that it stands for, and how much of that had keys and values.

    `reusable` is the most that it could have had: the positions whose logits it asks for must be
    computed, whatever is known. `known` stays None for a call that was never computed, because
    another's answer was its answer, too.
    """

    prompt: bytes
    reusable: int
    known: int | None = None

    @property
    def tokens(self) -> int:
        """The prompt's length."""
        return len(self.prompt) // 4


@dataclass
class CallLog:
    """What an engine was asked, in order: a call begins, or tokens have come to be computed."""

    events: list[tuple[Call | None, bytes]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    generated: int = 0
    """Tokens that all calls have generated, those included that their constraints forced."""

    @property
    def prompt_tokens(self) -> int:
        """The tokens of all prompts that were computed, each sent in full."""
        return sum(call.tokens for call in self.calls if call.known is not None)

    @property
    def hits(self) -> int:
        """Prompt tokens that had KV when their call was admitted."""
        return sum(call.known or 0 for call in self.calls)

    @property
    def ideal(self) -> int:
        """Prompt tokens that a cache which never forgets would have had; see `ideal_hits`."""
        return ideal_hits(self.events)

    @property
    def rate_of_ideal(self) -> float:
        """Hits over ideal hits; 1 where there was nothing to hit."""
        ideal = self.ideal
        return self.hits / ideal if ideal else 1.0


def ideal_hits(events: Iterable[tuple[Call | None, bytes]]) -> int:
    """Return the prompt tokens that need not be computed, given what came before.

    A prompt's longest prefix counts that stands in an earlier call's prompt, or in what had been
    generated and computed before the call began. So the ideal is the prompts' tokens less the
    edges of their radix tree, where edges that were generated are no cost, and where every call
    computes at least the positions whose logits it wants.
    """
    known: list[bytes] = []
    total = 0
    for call, tokens in events:
        if call is not None and call.known is not None:
            total += min(_longest(known, tokens), call.reusable)
        insort(known, tokens)
    return total


def _longest(known: list[bytes], tokens: bytes) -> int:
    """Return how many leading tokens `tokens` shares with any of the sorted `known`."""
    at = bisect_left(known, tokens)
    return max((_shared(other, tokens) for other in known[max(0, at - 1) : at + 1]), default=0)


def _shared(one: bytes, other: bytes) -> int:
    count = min(len(one), len(other)) // 4
    a, b = np.frombuffer(one, ">i4", count), np.frombuffer(other, ">i4", count)
    differ = np.flatnonzero(a != b)
    return int(differ[0]) if len(differ) else count


def watch(engine: Engine) -> CallLog:
    """Note every call of an engine from now on."""
    log, begun = CallLog(), {}
    submit, step = engine.submit, engine.step
    scheduler: Any = engine._scheduler
    admit, is_filled = scheduler._admit, scheduler._is_filled

    def noted_submit(request: Request) -> None:
        call = Call(_key(request, request.sequence.length), request.first_logits)
        begun[request] = call
        log.calls.append(call)
        log.events.append((call, call.prompt))
        submit(request)

    def noted_step() -> list[Request]:
        done = step()
        for request in done:
            begun.pop(request, None)
            log.generated += request.produced
            log.events.append((None, _key(request, request.sequence.resident)))
        return done

    def note(request: Request) -> None:
        call = begun.get(request)
        if call is not None and call.known is None:
            call.known = min(request.sequence.resident, call.reusable)

    def noted_admit(request: Request) -> None:
        note(request)
        admit(request)

    def noted_is_filled(request: Request) -> bool:
        filled = is_filled(request)
        if filled:
            note(request)
        return filled

    engine.submit, engine.step = noted_submit, noted_step  # type: ignore[method-assign]
    scheduler._admit, scheduler._is_filled = noted_admit, noted_is_filled
    return log


def _key(request: Request, count: int) -> bytes:
    """Return the first tokens of a request's sequence; keys sort like lists of tokens."""
    tokens = request.sequence.tokens[: min(count, request.sequence.length)]
    return tokens.astype(">i4").tobytes()
