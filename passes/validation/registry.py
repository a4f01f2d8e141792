"""Which check each pass must pass, by the pass's name; the pass manager runs them when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ...ir.core import Module
from ...ir.diagnostics import PassError
from ..manager import Context
from .critical import check_critical
from .kv import freed_once
from .kv_reads import lifetimes_hold
from .lowering import same_text
from .prefixes import prefixes_hold
from .remote import shared_calls_hold
from .streams import SameEvents, only_annotated
from .tables import tables_hold

Check = Callable[[Module, Module, Context], Iterable[str]]
"""Looks at a module before and after a pass, and gives what is wrong."""


class ChangedMeaning(PassError):
    """A pass that has not kept what its validation asks."""

    template = "pass {name} has changed what the program means: {problem}"
    hint = "this is a fault of weft; without validation the program runs as the pass left it"


def _critical(before: Module, after: Module, context: Context) -> Iterator[str]:
    yield from only_annotated(before, after, "critical")
    yield from check_critical(after)


def _tables(before: Module, after: Module, context: Context) -> Iterator[str]:
    yield from only_annotated(before, after)
    yield from tables_hold(before, after, context)


def _budgets(before: Module, after: Module, context: Context) -> Iterator[str]:
    from ..program.memory.budget_check import validate

    yield from only_annotated(before, after, "budget")
    yield from validate(before, after, context)


def _lifetimes(before: Module, after: Module, context: Context) -> Iterator[str]:
    yield from only_annotated(before, after, "lifetime")
    yield from lifetimes_hold(before, after, context)


CHECKS: Mapping[str, Check] = {
    "fold-constants": SameEvents(),
    "drop-dead": SameEvents(frozenset({"call", "fork", "score"})),
    "canonicalize": SameEvents(),
    "prefix-sharing": prefixes_hold,
    "compile-constraints": _tables,
    "remote-calls": shared_calls_hold,
    "lower-to-plan": same_text,
    "free-kv": freed_once,
    "batching": _critical,
    "plan-budgets": _budgets,
    "kv-lifetimes": _lifetimes,
}
"""The passes over programs and plans, each with its check."""


def validation(more: Mapping[str, Check] | None = None) -> Callable[..., None]:
    """Return what `Context.validate` may be: it raises ChangedMeaning; `more` adds checks."""
    checks = {**CHECKS, **(more or {})}

    def validate(name: str, before: Module, after: Module, context: Context) -> None:
        check = checks.get(name)
        for problem in check(before, after, context) if check else ():
            raise ChangedMeaning(name=name, problem=problem)

    return validate
