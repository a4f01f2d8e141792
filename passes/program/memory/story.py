"""What needs most of the memory that a proof speaks of, in words: forks, calls, and gens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ....ir.budget import UNBOUNDED, Limits, Peak, Use
from ....ir.core import Operation, Region

MOST_GENS = 4
"""Gens of a stream that are named, those of most tokens first; the others are counted."""


def story(programs: Mapping[str, Operation], program: str, peak: Peak, limits: Limits) -> str:
    """Return what needs most pages, outermost first, and at the end of it the tokens of a stream,
    the gens that write them, and what a branch may have to compute besides: the tokens above it."""
    told: list[str] = []
    region = programs[program].regions[0]
    while peak.parts:
        use = max(peak.parts, key=lambda use: use.pages * min(use.times, limits.ahead))
        if use.pages * min(use.times, limits.ahead) < peak.own:
            break
        told.append(_named(use))
        if use.inner is None:
            break
        peak, region = use.inner, _inside(region, use.what, use.inner, programs)
    above = f" after up to {_count(peak.above, 'token')} above it" if peak.above > 0 else ""
    stream = f"a stream of {_count(peak.tokens, 'token')}{_gens(region)}{above}"
    return " x ".join([*told, stream])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _named(use: Use) -> str:
    def number(value: int) -> str:
        return "unbounded" if value >= UNBOUNDED else str(value)

    if use.width != 1:
        return f"{use.what} ({number(use.width)})"
    return use.what if use.times == 1 else f"{number(use.times)} {use.what}"


def _inside(region: Region, what: str, peak: Peak, programs: Mapping[str, Operation]) -> Region:
    """Return the region of a fork or a call that a frame has as its part.

    Of forks of one name, it is the one of most tokens that has the forks inside it that `peak` has.
    """
    kind, _, name = what.partition(" ")
    if kind == "call":
        return programs[name].regions[0]
    wanted = {use.what for use in peak.parts if use.what.startswith("fork ")}
    found = [
        fork.regions[0]
        for fork in _forks(region)
        if fork["name"] == name and wanted <= _names_of_forks(fork.regions[0])
    ]
    return max(found, key=lambda inner: sum(gen["max_tokens"] for gen, _ in _gens_of(inner)))


def _forks(region: Region) -> list[Operation]:
    return [operation for operation, _ in _of_stream(region) if operation.name == "plan.fork"]


def _names_of_forks(region: Region) -> set[str]:
    return {f"fork {operation['name']}" for operation in _forks(region)}


def _of_stream(region: Region, again: bool = False) -> Iterator[tuple[Operation, bool]]:
    """Yield the operations of a frame's own stream, and whether a loop may repeat each."""
    for operation in region.operations:
        yield operation, again
        if operation.name != "plan.fork":
            loops = again or operation.name in {"plan.for", "plan.while"}
            for inner in operation.regions:
                yield from _of_stream(inner, loops)


def _gens_of(region: Region) -> list[tuple[Operation, bool]]:
    return [(op, again) for op, again in _of_stream(region) if op.name == "plan.decode"]


def _gens(region: Region) -> str:
    gens = _gens_of(region)
    if not gens:
        return ""
    largest = sorted(gens, key=lambda gen: -gen[0]["max_tokens"])[:MOST_GENS]
    told = [f"gen {op['name']} of {op['max_tokens']}{' each time' * again}"
            for op, again in gens if any(op is one for one, _ in largest)]  # fmt: skip
    more = len(gens) - len(told)
    return f" ({', '.join(told)}{f' and {more} more' * (more > 0)})"
