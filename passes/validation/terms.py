"""Symbolic values of a program, hash-consed: equal terms have equal numbers.

Text is in normal form: a concatenation of known texts, none beside another, and of values shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.core import Operation
from ...ir.diagnostics import RunError
from ...ir.evaluate import evaluate
from ...ir.types import STR
from ...ir.values import format_value

Term = int
"""The number of a term in its table."""


class Terms:
    """The table of all terms of a validation; both modules share it."""

    def __init__(self) -> None:
        self._numbers: dict[Any, Term] = {}
        self.shapes: list[tuple[Any, ...]] = []
        self._constants: dict[Term, Any] = {}

    def make(self, *shape: Any) -> Term:
        """Return the term of a shape: a kind, then names, numbers and other terms."""
        number = self._numbers.get(shape)
        if number is None:
            number = self._numbers[shape] = len(self.shapes)
            self.shapes.append(shape)
        return number

    def constant(self, value: Any) -> Term:
        """Return the term of a known value; 1, 1.0 and true are three."""
        number = self.make("constant", type(value).__name__, repr(value))
        self._constants[number] = value
        return number

    def known(self, term: Term) -> bool:
        """Whether a term is a constant."""
        return term in self._constants

    def value(self, term: Term) -> Any:
        """Return a constant's value."""
        return self._constants[term]

    def kind(self, term: Term) -> str:
        """Return the first part of a term's shape."""
        return self.shapes[term][0]

    # Text.

    def shown(self, term: Term) -> Term:
        """Return how a value reads in text."""
        if self.known(term):
            return self.constant(format_value(self.value(term)))
        return term if self.kind(term) in {"text", "shown"} else self.make("shown", term)

    def text(self, parts: Sequence[Term]) -> Term:
        """Return the concatenation of shown values, in normal form."""
        flat: list[Term] = []
        for part in map(self.shown, parts):
            inner = self.shapes[part][1:] if self.kind(part) == "text" else (part,)
            for each in inner:
                if self.known(each) and flat and self.known(flat[-1]):
                    flat[-1] = self.constant(self.value(flat[-1]) + self.value(each))
                else:
                    flat.append(each)
        flat = [each for each in flat if not self.known(each) or self.value(each)]
        if not flat:
            return self.constant("")
        return flat[0] if len(flat) == 1 else self.make("text", *flat)

    def choice(self, condition: Term, then: Term, otherwise: Term) -> Term:
        """Return one of two terms."""
        return then if then == otherwise else self.make("either", condition, then, otherwise)

    # Host operations.

    def operation(
        self,
        operation: Operation,
        operands: Sequence[Term],
        pure_tools: Mapping[str, Callable[..., Any]],
    ) -> Term:
        """Return what a host operation without effects gives."""
        if all(map(self.known, operands)):
            try:
                values = [self.value(operand) for operand in operands]
                if operation.name == "program.call_tool":
                    return self.constant(pure_tools[operation["name"].name](*values))
                return self.constant(evaluate(operation, values))
            except (RunError, KeyError):
                pass  # it fails when it runs, or there is no function here: a term like others
            except Exception:
                assert operation.name == "program.call_tool", "the evaluator wraps its errors"
        return self._part(operation, operands) or self.make(
            operation.name, operation.attributes, *operands
        )

    def _part(self, operation: Operation, operands: Sequence[Term]) -> Term | None:
        """Return an operation's value where it is part of how its operand was made."""
        name = operation.name.partition(".")[2]
        if name == "format":
            parts = operation["parts"]
            return self.text(
                [self.constant(p) if isinstance(p, str) else operands[p] for p in parts]
            )
        if name == "binary" and operation["op"] == "+" and operation.result.type == STR:
            return self.text(operands)
        made: tuple[Any, ...] = self.shapes[operands[0]] if operands else ("nothing",)
        if name == "builtin" and operation["name"] == "str":
            return operands[0] if operation.operands[0].type == STR else self.shown(operands[0])
        if name == "field" and made[0] == "program.make_record":
            return dict(zip(dict(made[1])["fields"], made[2:], strict=True)).get(operation["name"])
        if name == "index" and made[0] == "program.list" and self.known(operands[1]):
            at = self.value(operands[1])
            inside = type(at) is int and -len(made[2:]) <= at < len(made[2:])
            return made[2:][at] if inside else None
        if name == "builtin" and operation["name"] == "len" and made[0] == "program.list":
            return self.constant(len(made[2:]))
        if name == "is_error" and made[0] == "program.result":
            return self.constant(False)
        if name == "expect" and made[0] == "program.result":
            return made[2]
        return None

    def elements(self, term: Term) -> list[Term] | None:
        """Return the elements of a list that is known, or made of known parts."""
        if self.known(term):
            value = self.value(term)
            return [self.constant(item) for item in value] if isinstance(value, list) else None
        return list(self.shapes[term][2:]) if self.kind(term) == "program.list" else None

    def describe(self, term: Term, depth: int = 3) -> str:
        """Return a term for a message."""
        if self.known(term):
            return repr(self.value(term))
        kind, *parts = self.shapes[term]
        if depth == 0:
            return f"{kind}(...)"
        inner = [
            self.describe(part, depth - 1) if type(part) is int else str(part) for part in parts
        ]
        return f"{kind}({', '.join(inner)})"
