"""One program measured: weft's run, the same engine driven by requests, and the 8 B simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from weft.runtime.simulator import Price

from ..measure import Summary, ratio
from .bound import Work, cpu_bound
from .cases import ROOMY_TOKENS
from .contest import Contest, Run, Way
from .driver import Answer
from .replay import Replay, UnknownPrefix

TOLERANCE = 1e-3
"""What log-probabilities may differ by: other batches add in another order."""


def measure(
    contest: Contest,
    rounds: int,
    price: Price | None,
    quick: bool = False,
    idle: float = 0.0,
    no_cache: bool = False,
) -> dict[str, Any]:
    """Return a program's figures: counts, equality, throughput ratios, simulated ratio.

    `speedup` is over the better of the clients' two orders in the scaled KV memory. Without rounds
    nothing is timed. Rows whose answers differ are other work: they are counted and listed, and
    left out of all that compares seconds.
    """
    found, replay = _counted(contest)
    if found["differing"] and 2 * found["equal_rows"] >= found["rows"]:
        contest = contest.without(found["differing"])
    found["raced_rows"] = len(contest.rows)
    found |= _pressed(contest, replay, price)
    if rounds:
        found |= _raced(contest, rounds, idle)
        if price:
            found["speedup_bound"] = cpu_bound(found, found.pop("least_tokens"))
    found.pop("least_tokens", None)
    if rounds and not quick:
        roomy = Way(kv_tokens=ROOMY_TOKENS)
        contenders = {"weft": partial(contest.weft_ready, roomy),
                      "requests": partial(contest.requests_ready, roomy)}  # fmt: skip
        times = contest.race(contenders, (rounds + 1) // 2, idle)
        found["speedup_roomy"] = ratio(times["requests"], times["weft"]).median
    if rounds and no_cache:
        weft = found["seconds"]["weft"]["median"]
        found["speedup_vs_no_cache"] = contest.requests(Way(cache=False)).seconds / weft
    return found


def _counted(contest: Contest) -> tuple[dict[str, Any], Replay]:
    """Return what is counted: the clients run on the model, weft replays its answers."""
    replay = Replay(contest.compilation.executor)
    roomy = Way(kv_tokens=ROOMY_TOKENS, replay=replay, noted=True)
    clients = sound(contest.requests(roomy))
    replay.frozen = True
    try:
        free = sound(contest.weft(roomy))
    except UnknownPrefix:  # answers differ, so weft needs logits of its own
        replay.frozen = False
        free = sound(contest.weft(roomy))
        replay.frozen = True
    found = counts(free, clients) | agreement(free.answers, clients.answers)
    if found["differing"]:
        checkpoint = contest.compilation.checkpoint
        assert checkpoint is not None
        decode = checkpoint.tokenizer.decode
        found["prompts_in_other_tokens"] = in_other_tokens(prompts(free), prompts(clients), decode)
    return found, replay


def _pressed(contest: Contest, replay: Replay, price: Price | None) -> dict[str, Any]:
    """Return both sides in the scaled memory, and on the virtual clock where there is a price."""
    tight = Way(replay=replay, noted=True)
    counted: list[Any] = []

    def run(order: bool | None = None) -> Run:
        way = tight if price is None else replace(tight, price=Work(price))
        counted.append(way.price)
        return sound(contest.weft(way) if order is None else contest.requests(
            replace(way, longest_prefix=order)))  # fmt: skip

    ours = run()
    theirs = [run(order) for order in ((False, True) if price else (False,))]
    best = min(range(len(theirs)), key=lambda at: theirs[at].seconds) if price else 0
    found: dict[str, Any] = {
        "scaled_memory": {"weft": pressed(ours), "requests": pressed(theirs[best])}
    }
    if price is not None:
        seconds = theirs[best].seconds
        found["work"] = {"weft": counted[0].json(), "requests": counted[1 + best].json()}
        found["simulated_8b_seconds"] = {"weft": ours.seconds, "requests": seconds}
        found["simulated_8b_speedup"] = seconds / ours.seconds
        found |= _roomy(contest, Way(kv_tokens=ROOMY_TOKENS, replay=replay, noted=True), price)
        tokens = found["least_tokens"] = min(counted[0].tokens, found["least_tokens"])
        found |= _bounds(contest, counted[0], seconds, tokens, replay)
    return found


def _bounds(
    contest: Contest, work: Work, theirs: float, tokens: int, replay: Replay
) -> dict[str, Any]:
    """Return the most that a schedule of the same work could gain on the virtual clock."""
    path = Work(work.price)
    way = Way(kv_tokens=ROOMY_TOKENS, replay=replay, price=path, boundless=True)
    sound(contest.weft(way))
    batch, most = contest.compilation.options.max_batch, contest.compilation.options.max_tokens
    least = work.least_seconds(batch, tokens, most)
    return {
        "longest_path": path.steps,
        "simulated_8b_bound": theirs / least,
        "simulated_8b_tight_bound": theirs / max(least, path.tight_seconds(batch, tokens, most)),
    }


def _roomy(contest: Contest, way: Way, price: Price) -> dict[str, Any]:
    """Return the ratio where everything fits, and the tokens that weft computes there."""
    theirs = [
        contest.requests(replace(way, price=price, longest_prefix=order)).seconds
        for order in (False, True)
    ]
    work = Work(price)
    seconds = contest.weft(replace(way, price=work)).seconds
    return {"simulated_8b_speedup_roomy": min(theirs) / seconds, "least_tokens": work.tokens}


def sound(run: Run) -> Run:
    """Return a run none of whose rows failed, weft's or a client's: to fail early is not fast."""
    for answer in run.answers:
        error = answer.error if isinstance(answer, Answer) else answer
        if isinstance(error, BaseException):
            raise error
    return run


def _raced(contest: Contest, rounds: int, idle: float) -> dict[str, Any]:
    """Return throughput ratios of real runs: weft and the better order of clients, in turn."""
    first = {order: sound(contest.requests(Way(longest_prefix=order))).seconds
             for order in (False, True)}  # fmt: skip
    best = Way(longest_prefix=first[True] < first[False])
    noted = replace(best, noted=True)
    profiles = {"weft": profile(contest.weft(noted)), "requests": profile(contest.requests(noted))}
    contenders = {
        "weft": partial(contest.weft_ready, Way()),
        "requests": partial(contest.requests_ready, best),
    }
    if contest.constrained:
        contest.requests(Way(forced=True))  # compiles the grammars once more
        contenders["forced"] = partial(contest.requests_ready, replace(best, forced=True))
    times = contest.race(contenders, rounds, idle)
    weft, speedup = median(times["weft"]), ratio(times["requests"], times["weft"])
    forced = ratio(times["forced"], times["weft"]).median if contest.constrained else speedup.median
    return {
        "seconds": {name: Summary.of(values).json() for name, values in times.items()},
        "profile": profiles,
        "rows_per_s": len(contest.rows) / weft,
        "longest_prefix_first": best.longest_prefix,
        "order_seconds": {"arrival": first[False], "longest_prefix": first[True]},
        "speedup": speedup.median,
        "speedup_range": [speedup.low, speedup.high],
        "speedup_vs_forced_baseline": forced,
    }


def counts(ours: Run, theirs: Run) -> dict[str, Any]:
    """Return calls, tokens and hits of both sides where memory holds everything.

    Every call counts its whole prompt.
    """
    assert ours.log is not None and theirs.log is not None
    stats = [answer.stats for answer in ours.answers]
    predicted = sum(each.hits_predicted for each in stats)
    measured = sum(each.hits_measured for each in stats)
    return {
        "rows": len(ours.answers),
        "calls": len(theirs.log.calls),
        "tokens": sum(each.generated_tokens for each in stats),
        "prompt_tokens": theirs.log.prompt_tokens,
        "hit_rate": ours.log.hits / max(1, ours.log.prompt_tokens),
        "hit_rate_of_ideal": ours.log.rate_of_ideal,
        "missed_tokens": ours.log.ideal - ours.log.hits,
        "requests_hit_rate": theirs.log.hits / max(1, theirs.log.prompt_tokens),
        "requests_hit_rate_of_ideal": theirs.log.rate_of_ideal,
        "predicted_equals_measured": predicted == measured,
    }


def pressed(run: Run) -> dict[str, Any]:
    """Return what a run made of the scaled KV memory: hits, steps, and KV given up and redone."""
    assert run.log is not None and run.trace is not None
    steps = run.trace.steps
    return {
        "hit_rate_of_ideal": run.log.rate_of_ideal,
        "preemptions": run.engine.preemptions,
        "steps": len(steps),
        "prefill_tokens": sum(step.prefill_tokens for step in steps),
        "decode_tokens": sum(step.running for step in steps),
    }


def profile(run: Run) -> dict[str, float]:
    """Return where the time of a noted run went, and how full its steps were.

    What others took of the wall's time is taken from all parts alike.
    """
    assert run.trace is not None
    steps = run.trace.steps
    model = sum(step.model_seconds for step in steps) / run.stretch
    sample = sum(step.sample_seconds for step in steps) / run.stretch
    host = sum(step.host_seconds for step in steps) / run.stretch
    fed = sum(step.running + step.prefill_tokens for step in steps)
    return {
        "steps": len(steps),
        "tokens_per_step": fed / max(1, len(steps)),
        "prefill_tokens": sum(step.prefill_tokens for step in steps),
        "decode_tokens": sum(step.running for step in steps),
        "model_s": model,
        "sample_s": sample,
        "engine_host_s": host,
        "between_steps_s": run.seconds - model - sample - host,
    }


def prompts(run: Run) -> set[tuple[int, ...]]:
    """Return the tokens of all calls of a noted run."""
    assert run.trace is not None
    return {tuple(call.tokens.tolist()) for call in run.trace.calls if call.kind == "call"}


def in_other_tokens(
    ours: set[tuple[int, ...]], theirs: set[tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
) -> int:  # fmt: skip
    """Return how many prompts both sides send as equal text, and only ours in these tokens.

    A stream keeps the tokens that a gen drew; a client gets text, which is tokenized anew. Where
    the model has drawn a word in other pieces, what follows is another prompt.
    """
    texts = {decode(tokens) for tokens in theirs}
    return sum(decode(tokens) in texts for tokens in ours - theirs)


def agreement(ours: Sequence[Any], theirs: Sequence[Answer]) -> dict[str, Any]:
    """Return which rows differ between weft and the clients, with the first difference."""
    differing = [
        number
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if not same_outcome(one, other)
    ]
    found: dict[str, Any] = {"equal_rows": len(ours) - len(differing), "differing": differing}
    if differing:
        first = differing[0]
        found["first_difference"] = [_said(ours[first]), _said(theirs[first])]
    return found


def same_outcome(one: Any, other: Answer) -> bool:
    """Return whether both sides have the same value and bound names, or both failed."""
    if isinstance(one, BaseException) or other.error is not None:
        return isinstance(one, BaseException) and other.error is not None
    return same(one.value, other.value) and same(one.values, other.values)


def same(one: Any, other: Any) -> bool:
    """Return whether values are equal, numbers within the tolerance."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    return one == other


def _said(outcome: Any) -> str:
    values = getattr(outcome, "values", None)
    error = getattr(outcome, "error", outcome if values is None else None)
    return (f"{type(error).__name__}: {error}" if error else str(values))[:300]
