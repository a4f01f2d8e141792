"""The constraints of a plan, compiled: those with tables, and those that llguidance works out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from ...ir.constraints.token_table import TokenTable
from ...ir.core import Module, thaw
from ...ir.vocabulary import Tokenizer
from .matcher import BadConstraint, Constraint, Matcher
from .table_matcher import TableConstraint
from .whole import WholeTexts


class Constraints:
    """The compiled constraints of a plan, by name.

    A constraint with a table is not compiled here; the others are llguidance's, which is loaded
    only for them.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: tuple[int, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ends = ends or tokenizer.end_ids
        self._compiled: dict[str, Constraint] = {}
        self._whole: dict[str, WholeTexts] = {}

    def add(self, name: str, kind: str, source: Any, table: TokenTable | None = None) -> None:
        """Take a constraint: a regex's pattern, a JSON schema (text or dict), a lark grammar."""
        if table is not None:
            self._compiled[name] = TableConstraint(table, self._tokenizer, self._vocab_size)
            return

        from .guided import GuidedConstraint

        self._compiled[name] = GuidedConstraint(kind, source, self._guide)
        if kind != "regex":  # of a pattern nobody asks
            self._whole[name] = WholeTexts(kind, source)

    def add_module(self, plan: Module, tables: Mapping[str, TokenTable]) -> Constraints:
        """Take every `plan.constraint` of a module, with its table if it names one; return self."""
        for operation in plan.operations:
            if operation.name == "plan.constraint":
                key = operation.attribute("table")
                source = thaw(operation["source"])
                try:
                    self.add(_plain(operation["name"]), operation["kind"], source, tables.get(key))
                except BadConstraint as error:
                    raise BadConstraint(**error.fields, span=operation.span) from None
        return self

    def start(self, name: object, heal: str = "", opening: str = "") -> Matcher:
        """Return a fresh matcher of the constraint called `name`; see `Constraint.start`."""
        return self._compiled[_plain(name)].start(heal, opening)

    def whole(self, name: object, text: str) -> bool:
        """Whether a text, what the prompt has of it included, is a whole one of the constraint."""
        constraint = self._compiled[_plain(name)]
        if isinstance(constraint, TableConstraint):
            table = constraint.table
            return bool(table.accepting[table.walk(text.encode())])
        return text in self._whole[_plain(name)]

    def matchers(self) -> Iterator[Matcher]:
        """Yield a fresh matcher of each constraint."""
        for constraint in self._compiled.values():
            yield constraint.start()

    @cached_property
    def _guide(self) -> Any:
        from .guided import guide

        return guide(self._tokenizer, self._vocab_size, self._ends)


def _plain(name: object) -> str:
    return getattr(name, "name", None) or str(name)
