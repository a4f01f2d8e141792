"""One program measured: weft's run, the same engine driven by requests, and the 8 B simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from weft.runtime.results import Result
from weft.runtime.simulator import Price

from .contest import Contest, Run, Way
from .measure import Summary, interleave, ratio
from .programs_cases import ROOMY_TOKENS
from .request_driver import Answer

TOLERANCE = 1e-3
"""What log-probabilities may differ by: other batches add in another order."""


def measure(
    contest: Contest, rounds: int, price: Price | None, quick: bool = False, idle: float = 0.0
) -> dict[str, Any]:
    """Return a program's figures: counts, equality, throughput ratios, simulated ratio.

    `speedup` is over the better of the clients' two orders in the scaled KV memory.
    """
    noted = Way(noted=True)
    ours, theirs = contest.weft(noted), contest.requests(noted)
    for answer in ours.answers:
        if isinstance(answer, BaseException):  # a row that fails early is no fast row
            raise answer
    found = counts(ours, theirs) | agreement(ours.answers, theirs.answers)
    found["profile"] = {"weft": profile(ours), "requests": profile(theirs)}
    ways = _ways(contest, quick)
    runs = {name: _seconds_of(side, way) for name, (side, way) in ways.items()}
    contest.requests(Way(forced=True))  # compiles its grammars, as the run above did the others
    found |= ratios(interleave(runs, rounds, idle), len(contest.rows))
    if not quick:
        alone = contest.requests(Way(cache=False)).seconds
        found["speedup_vs_no_cache"] = alone / found["seconds"]["weft"]["median"]
    if price is not None:
        mine = contest.weft(Way(price=price)).seconds
        other = contest.requests(Way(price=price)).seconds
        other = min(other, contest.requests(Way(price=price, longest_prefix=True)).seconds)
        found["simulated_8b_seconds"] = {"weft": mine, "requests": other}
        found["simulated_8b_speedup"] = other / mine
    return found


Side = Callable[[Way], Run]


def _seconds_of(side: Side, way: Way) -> Callable[[], float]:
    return lambda: side(way).seconds


def _ways(contest: Contest, quick: bool) -> dict[str, tuple[Side, Way]]:
    """Return what races: weft, clients in two orders, and what else is asked for."""
    ways: dict[str, tuple[Side, Way]] = {
        "weft": (contest.weft, Way()),
        "requests": (contest.requests, Way()),
        "longest_prefix": (contest.requests, Way(longest_prefix=True)),
    }
    if contest.constrained:
        ways["forced"] = contest.requests, Way(forced=True)
    if not quick:
        ways["roomy_weft"] = contest.weft, Way(kv_tokens=ROOMY_TOKENS)
        ways["roomy_requests"] = contest.requests, Way(kv_tokens=ROOMY_TOKENS)
    return ways


def ratios(times: Mapping[str, list[float]], rows: int) -> dict[str, Any]:
    """Return throughput ratios of interleaved runs."""
    orders = ("requests", "longest_prefix")
    best = min(orders, key=lambda name: median(times[name]))
    speedup = ratio(times[best], times["weft"])
    found = {
        "seconds": {name: Summary.of(values).json() for name, values in times.items()},
        "rows_per_s": rows / median(times["weft"]),
        "best_order": best,
        "speedup": speedup.median,
        "speedup_range": [speedup.low, speedup.high],
        "speedup_vs_arrival_order": ratio(times["requests"], times["weft"]).median,
        "speedup_vs_forced_baseline": speedup.median,
    }
    if "forced" in times:
        found["speedup_vs_forced_baseline"] = ratio(times["forced"], times["weft"]).median
    if "roomy_weft" in times:
        roomy = ratio(times["roomy_requests"], times["roomy_weft"])
        found["speedup_roomy"] = roomy.median
    return found


def counts(ours: Run, theirs: Run) -> dict[str, Any]:
    """Return calls, tokens and hits of both sides.

    `prompt_tokens` and `hit_rate` are in the clients' terms: every call sends its whole prompt.
    """
    assert ours.log is not None and theirs.log is not None
    stats = [answer.stats for answer in ours.answers if isinstance(answer, Result)]
    predicted = sum(each.hits_predicted for each in stats)
    measured = sum(each.hits_measured for each in stats)
    return {
        "rows": len(ours.answers),
        "calls": len(theirs.log.calls),
        "tokens": sum(each.generated_tokens for each in stats),
        "prompt_tokens": theirs.log.prompt_tokens,
        "hit_rate_of_ideal": ours.log.rate_of_ideal,
        "missed_tokens": ours.log.ideal - ours.log.hits,
        "hit_rate": 1 - (ours.log.prompt_tokens - ours.log.hits) / theirs.log.prompt_tokens,
        "requests_hit_rate_of_ideal": theirs.log.rate_of_ideal,
        "predicted_equals_measured": predicted == measured,
        "steps": {"weft": ours.engine.steps, "requests": theirs.engine.steps},
    }


def profile(run: Run) -> dict[str, float]:
    """Return where a noted run's time went, and how full its steps were."""
    assert run.trace is not None
    steps = run.trace.steps
    model = sum(step.model_seconds for step in steps)
    sample = sum(step.sample_seconds for step in steps)
    fed = sum(step.running + step.prefill_tokens for step in steps)
    return {
        "steps": len(steps),
        "tokens_per_step": fed / max(1, len(steps)),
        "prefill_tokens": sum(step.prefill_tokens for step in steps),
        "decode_tokens": sum(step.running for step in steps),
        "model_s": model,
        "sample_s": sample,
        "engine_host_s": sum(step.host_seconds for step in steps),
        "between_steps_s": run.seconds - model - sample - sum(s.host_seconds for s in steps),
    }


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
    error = outcome if isinstance(outcome, BaseException) else getattr(outcome, "error", None)
    return f"{type(error).__name__}: {error}"[:300] if error else str(outcome.values)[:300]
