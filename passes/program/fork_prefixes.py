"""Fork prefixes: tokens with which all branches of a fork go on are computed before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...ir.core import Module, Operation, walk
from ...ir.diagnostics import PassError
from ...ir.vocabulary import Tokenizer
from ..manager import EVERYTHING, Context
from ..rewrite import rewrite
from .boundaries import common
from .prefix_walk import ForkPoint, PlanWalk

PROBES: tuple[Any, ...] = ("", "a", " a", "s the ", "\n", "'s", "3", "\u00e9", "B. ")
"""Values that unknown parameters are given when a plan is checked on known texts."""


class WrongPrefix(PassError):
    """Tokens computed before a fork that one of its branches does not go on with."""

    template = (
        "fork {name}: {ahead} tokens are computed ahead, but a branch has only {shared} of them "
        "before its first call"
    )


class ChangedPrompt(PassError):
    """A pass over a plan that changed what a model call sees."""

    template = "call {name} ({number} of {count}) does not see the same tokens after the pass"


@dataclass(frozen=True)
class ForkPrefixes:
    """Give each `plan.prefill` before a fork the tokens that all its branches begin with.

    Elements that are known make the branches' texts known, and the prefix exact. Of texts that
    hold a value not known yet, the tokens up to the last border before the value are certain:
    `Boundaries` proves which these are. The last token before a call is left to the call, which
    needs its logits.
    """

    name: ClassVar[str] = "fork-prefixes"
    reads: ClassVar[tuple[str, ...]] = ("program", "plan")
    writes: ClassVar[tuple[str, ...]] = ("plan",)
    requires: ClassVar[tuple[str, ...]] = ("planned",)
    ensures: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[tuple[str, ...]] = EVERYTHING

    def run(self, module: Module, context: Context) -> Module:
        """Return the module with `ahead` on its prefills."""
        if context.tokenizer is None:
            return module
        points = fork_points(module, context.tokenizer)
        tokenizer = context.tokenizer

        def rule(operation: Operation) -> list[Operation] | None:
            if operation.name != "plan.prefill" or len(operation.operands) < 2:
                return None
            ahead = shared_ahead(points.get(operation.result.name, ()))
            what = operation.attribute("reason") or "prefill"
            if not ahead:
                context.left(f"{what}: the branches part at once", operation.span)
                return None
            text = tokenizer.decode(ahead)
            context.did(
                f"{what}: so are the {len(ahead)} tokens that all of them go on with, {text!r}",
                operation.span,
            )
            return [operation.with_attributes(ahead=ahead)]

        return rewrite(module, rule)


def fork_points(
    plan: Module, tokenizer: Tokenizer, arguments: Mapping[str, Any] | None = None
) -> dict[str, list[ForkPoint]]:
    """Return every walk of every fork, by the kv that it forks; functions run on their own too."""
    points: dict[str, list[ForkPoint]] = {}
    for function in plan.operations:
        if function.name == "plan.func":
            walked = PlanWalk(plan, function["name"].name, tokenizer)
            walked.row(0, arguments or {})
            for name, found in walked.forks.items():
                points.setdefault(name, []).extend(found)
    return points


def shared_ahead(points: Sequence[ForkPoint]) -> tuple[int, ...]:
    """Return the ids that all branches of a fork have after its stream, before any call."""
    lists = [ids for point in points for ids in _beginnings(point)]
    return tuple(lists[0][: common(lists)]) if lists else ()


def _beginnings(point: ForkPoint) -> Iterator[list[int]]:
    """Yield of each branch the ids that it certainly adds before its first call's last token."""
    length = len(point.text.elements)
    for call in point.firsts:
        ids: list[int] = []
        if call is not None:
            for element in call.prompt.elements[length : len(call.prompt.elements) - 1]:
                if not isinstance(element, int):
                    break
                ids.append(element)
        yield ids


def validate(before: Module, after: Module, tokenizer: Tokenizer) -> None:
    """Check that a pass over a plan left every call its tokens, and that prefixes are right.

    Prompts are compared symbolically, for all arguments; what is computed ahead of a fork also
    with known texts for arguments, which the tokenizer encodes whole. Raises ChangedPrompt,
    WrongPrefix.
    """
    for function in after.operations:
        if function.name == "plan.func":
            _same_prompts(before, after, function["name"].name, tokenizer)
    for given in (None, *PROBES):
        check_prefixes(after, tokenizer, given)


def _same_prompts(before: Module, after: Module, name: str, tokenizer: Tokenizer) -> None:
    old, new = (PlanWalk(plan, name, tokenizer).row(0, {}) for plan in (before, after))
    pairs = [(call.prompt.elements, call.first_logits) for call in old]
    for number, call in enumerate(new):
        if number >= len(pairs) or pairs[number] != (call.prompt.elements, call.first_logits):
            raise ChangedPrompt(name=call.name, number=number + 1, count=len(new), span=call.span)
    if len(old) > len(new):
        last = old[len(new)]
        raise ChangedPrompt(name=last.name, number=len(new) + 1, count=len(old), span=last.span)


def check_prefixes(plan: Module, tokenizer: Tokenizer, given: Any) -> None:
    """Check each prefill's `ahead` with parameters of type str and list<str> given; WrongPrefix."""
    for function in plan.operations:
        if function.name != "plan.func":
            continue
        walked = PlanWalk(plan, function["name"].name, tokenizer)
        walked.row(0, {} if given is None else _arguments(function, given))
        for operation in walk((function,)):
            if operation.name == "plan.prefill" and operation.attribute("ahead"):
                for point in walked.forks.get(operation.result.name, ()):
                    _check_point(operation, point)


def _check_point(prefill: Operation, point: ForkPoint) -> None:
    ahead = list(prefill["ahead"])
    for ids in _beginnings(point):
        if ids[: len(ahead)] != ahead:
            name = (prefill.attribute("reason") or "?").rpartition(" ")[2]
            shared = common([ids, ahead])
            raise WrongPrefix(name=name, ahead=len(ahead), shared=shared, span=prefill.span)


def _arguments(function: Operation, given: Any) -> dict[str, Any]:
    """Return probing arguments: `given` for texts, and lists of it and another for lists."""
    values: dict[str, Any] = {}
    for value in function.regions[0].arguments[1:]:
        if value.type.name == "str":
            values[value.name] = given
        elif value.type.name == "list" and str(value.type.parameters[0]) == "str":
            values[value.name] = [given, "x" + given]
    return values
