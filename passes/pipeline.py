"""The passes in their order, as plain tuples; `passes.manager` checks the order."""

from __future__ import annotations

from .manager import Pass, UnknownPass
from .program.canonicalize import Canonicalize
from .program.liveness import FreeKV
from .program.lower_to_plan import LowerToPlan
from .program.prefix_sharing import PrefixSharing

PROGRAM_PASSES: tuple[Pass, ...] = (Canonicalize(), PrefixSharing())
LOWERING: tuple[Pass, ...] = (LowerToPlan(),)
PLAN_PASSES: tuple[Pass, ...] = (FreeKV(),)


def known_passes() -> dict[str, Pass]:
    """Return every pass that a pipeline has, by name."""
    return {step.name: step for step in (*PROGRAM_PASSES, *LOWERING, *PLAN_PASSES)}


def named_passes(names: list[str]) -> tuple[Pass, ...]:
    """Return the passes of these names, in the order given; raises UnknownPass."""
    known = known_passes()
    for name in names:
        if name not in known:
            raise UnknownPass(name=name, known=", ".join(known))
    return tuple(known[name] for name in names)
