"""The pass manager: runs a tuple of passes, checks dialects and facts, verifies, records, dumps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..cost_model.prices import Prices
from ..ir.constraints.tables import ConstraintTables, Store
from ..ir.core import Module, Operation, Term
from ..ir.diagnostics import PassError
from ..ir.display.modules import diff_view
from ..ir.display.view import Shown, View
from ..ir.source import Span
from ..ir.verifier import verify
from ..ir.vocabulary import ChatFormat, Tokenizer


class MissingFact(PassError):
    """A pass in a pipeline before the pass that ensures what it requires."""

    template = "pass {name} requires {fact!r}, which nothing before it ensures or a pass has lost"
    hint = "put a pass that ensures {fact!r} before it"


class ForeignDialect(PassError):
    """A pass given IR of a dialect that it does not read."""

    template = "pass {name} reads {reads}, but the module has {operation}"


class UnknownPass(PassError):
    """A pass name that the pipelines do not have."""

    template = "there is no pass {name!r}"
    hint = "the passes are: {known}"


@dataclass(frozen=True)
class Remark:
    """What a pass did at a place, or could have done and did not, and why."""

    pass_name: str
    message: str
    span: Span | None = None
    done: bool = True


@dataclass
class Context:
    """What passes may know beside the module: vocabulary, chat format, target and remarks.

    `constraint_of(type, records)` returns `(kind, source)` of a typed gen, or None for free text.
    `pure_tools` run tools declared pure, with their timeouts; `entry` is the program that will run
    (None: any may). `store` keeps compiled constraints; `tables` are those of this compilation.
    """

    tokenizer: Tokenizer | None = None
    chat: ChatFormat | None = None
    constraint_of: Callable[[Term, dict[str, Operation]], tuple[str, str] | None] | None = None
    model_name: str = ""
    context_length: int = 0
    target: Any = None
    prices: Prices | None = None
    pure_tools: Mapping[str, Callable[..., Any]] | None = None
    entry: str | None = None
    validate: Callable[[str, Module, Module, Context], None] | None = None
    store: Store | None = None
    tables: ConstraintTables | None = None
    remarks: list[Remark] = field(default_factory=list)
    _current: str = ""

    def did(self, message: str, span: Span | None = None) -> None:
        """Note what the running pass did."""
        self.remarks.append(Remark(self._current, message, span, True))

    def left(self, message: str, span: Span | None = None) -> None:
        """Note what the running pass could have done and did not, with the reason."""
        self.remarks.append(Remark(self._current, message, span, False))


@runtime_checkable
class Pass(Protocol):
    """A rewriting step: a frozen dataclass whose fields are its options.

    `reads` and `writes` name dialects; `requires`, `ensures` and `keeps` facts of the module.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[tuple[str, ...]]
    requires: ClassVar[tuple[str, ...]]
    ensures: ClassVar[tuple[str, ...]]
    keeps: ClassVar[tuple[str, ...]]

    def run(self, module: Module, context: Context) -> Module:
        """Return the rewritten module."""
        ...


EVERYTHING: tuple[str, ...] = ("*",)
"""For `keeps`: the pass loses no fact."""


class ProgramPass:
    """What a pass declares that rewrites programs, needs no fact and loses none."""

    reads: ClassVar[tuple[str, ...]] = ("program",)
    writes: ClassVar[tuple[str, ...]] = ("program",)
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()
    keeps: ClassVar[tuple[str, ...]] = EVERYTHING


class PlanPass(ProgramPass):
    """The same of a pass that rewrites plans."""

    reads: ClassVar[tuple[str, ...]] = ("program", "plan")
    writes: ClassVar[tuple[str, ...]] = ("plan",)


class GraphPass(ProgramPass):
    """The same of a pass that rewrites graphs."""

    reads: ClassVar[tuple[str, ...]] = ("graph",)
    writes: ClassVar[tuple[str, ...]] = ("graph",)


@dataclass(frozen=True)
class PassRecord(Shown):
    """One pass as it ran: the module before and after, its time, its remarks."""

    name: str
    before: Module
    after: Module
    seconds: float
    remarks: tuple[Remark, ...]

    @property
    def changed(self) -> bool:
        """Whether the pass changed the module."""
        return self.before != self.after

    def counts(self) -> dict[str, int]:
        """Return by how much the count of each operation changed."""
        after = Counter(operation.name for operation in self.after.walk())
        after.subtract(Counter(operation.name for operation in self.before.walk()))
        return {name: change for name, change in sorted(after.items()) if change}

    def diff(self) -> str:
        """Return a unified diff of the module's text, empty if unchanged."""
        before, after = str(self.before).splitlines(True), str(self.after).splitlines(True)
        return "".join(unified_diff(before, after, f"before {self.name}", f"after {self.name}"))

    def view(self) -> View:
        """Return what the pass did, and why."""
        said = [f"{'did' if one.done else 'left'} {one.message}" for one in self.remarks]
        return diff_view(self.name, self.diff(), self.counts(), said, self.seconds)


def check_order(passes: Sequence[Pass], facts: frozenset[str] = frozenset()) -> frozenset[str]:
    """Check that every required fact holds where it is required; return the facts at the end.

    Raises MissingFact.
    """
    for step in passes:
        for fact in step.requires:
            if fact not in facts:
                raise MissingFact(name=step.name, fact=fact)
        kept = facts if "*" in step.keeps else facts & frozenset(step.keeps)
        facts = kept | frozenset(step.ensures)
    return facts


def run_passes(
    passes: Sequence[Pass],
    module: Module,
    context: Context,
    facts: frozenset[str] = frozenset(),
) -> tuple[Module, list[PassRecord]]:
    """Run passes in order, verifying after each; return the module and one record a pass.

    Raises MissingFact before anything runs, ForeignDialect, InvalidIR or what a pass raises.
    """
    check_order(passes, facts)
    records: list[PassRecord] = []
    for step in passes:
        _check_reads(step, module)
        context._current = step.name
        remarks_before = len(context.remarks)
        start = time.perf_counter()
        after = step.run(module, context)
        seconds = time.perf_counter() - start
        verify(after, tuple(dict.fromkeys((*step.reads, *step.writes))))
        if context.validate is not None:
            context.validate(step.name, module, after, context)
        remarks = tuple(dict.fromkeys(context.remarks[remarks_before:]))  # of a place each once
        records.append(PassRecord(step.name, module, after, seconds, remarks))
        module = after
    return module, records


def _check_reads(step: Pass, module: Module) -> None:
    for operation in module.walk():
        if operation.dialect not in step.reads:
            reads = " and ".join(step.reads)
            raise ForeignDialect(
                name=step.name, reads=reads, operation=operation.name, span=operation.span
            )
