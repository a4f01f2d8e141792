"""Equality of terms where their shapes differ: z3 over integers, truth values and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .terms import Term, Terms

EFFORT = 500_000
"""Steps of z3's that a proof may take, about a second: a clock would let a busy machine refuse what
holds."""


def equal(terms: Terms, one: tuple[Term, ...], other: tuple[Term, ...]) -> bool:
    """Whether two tuples of terms are equal for all arguments; unproven is no."""
    if len(one) != len(other):
        return False
    return all(a == b or _proven(terms, a, b) for a, b in zip(one, other, strict=True))


def _proven(terms: Terms, one: Term, other: Term) -> bool:
    """Whether z3 shows two terms equal; False where it is not installed."""
    try:
        import z3
    except ImportError:
        return False
    if terms.kind(one) == terms.kind(other) == "stream":
        return _streams(terms, one, other)
    try:
        left, right = (_Encoder(z3, terms).encoded(term) for term in (one, other))
    except _NoSort:
        return False
    if left.sort() != right.sort():
        return False
    solver = z3.Solver()
    solver.set("rlimit", EFFORT)
    solver.add(left != right)
    return solver.check() == z3.unsat


def _streams(terms: Terms, one: Term, other: Term) -> bool:
    """Whether two streams have equal bases and, piece by piece, equal texts."""
    left, right = terms.shapes[one][1:], terms.shapes[other][1:]
    texts = {"constant", "text", "shown", "either"}
    return len(left) == len(right) and all(
        a == b or ({terms.kind(a), terms.kind(b)} <= texts and _proven(terms, a, b))
        for a, b in zip(left, right, strict=True)
    )


class _NoSort(Exception):
    """A term that has no sort of z3's."""


class _Encoder:
    """Writes terms as z3's expressions; what has no meaning there is a variable of its own."""

    def __init__(self, z3: Any, terms: Terms) -> None:
        self._z3 = z3
        self._terms = terms

    def encoded(self, term: Term) -> Any:
        z3, terms = self._z3, self._terms
        if terms.known(term):
            return self._constant(terms.value(term))
        kind, *parts = terms.shapes[term]
        if kind == "text":
            return z3.Concat(*(self._text(part) for part in parts))
        if kind == "shown":
            return self._text(term)
        if kind == "either":
            condition, then, otherwise = map(self.encoded, parts)
            if not z3.is_bool(condition) or then.sort() != otherwise.sort():
                raise _NoSort
            return z3.If(condition, then, otherwise)
        if kind in {"program.binary", "program.unary"}:
            return self._operator(dict(parts[0])["op"], [self.encoded(part) for part in parts[1:]])
        if kind == "program.builtin" and dict(parts[0])["name"] == "len":
            return z3.Length(self._text(parts[1]))
        raise _NoSort

    def _constant(self, value: Any) -> Any:
        if isinstance(value, bool):
            return self._z3.BoolVal(value)
        if isinstance(value, int):
            return self._z3.IntVal(value)
        if isinstance(value, str):
            return self._z3.StringVal(value)
        raise _NoSort

    def _text(self, term: Term) -> Any:
        """Return a text; one that is not made of others is a variable."""
        if self._terms.known(term) or self._terms.kind(term) in {"text", "either"}:
            return self.encoded(term)
        return self._z3.String(f"text_{term}")

    def _operator(self, op: str, operands: list[Any]) -> Any:
        rule = _OPERATORS.get((op, len(operands)))
        sorts = {operand.sort() for operand in operands}
        if rule is None or len(sorts) != 1:
            raise _NoSort
        if op in {"-", "*", "<", "<=", ">", ">="} and not self._z3.is_int(operands[0]):
            raise _NoSort
        if op == "not":
            return self._z3.Not(operands[0])
        if op == "+" and self._z3.is_string(operands[0]):
            return self._z3.Concat(*operands)
        return rule(*operands)


_OPERATORS: dict[tuple[str, int], Callable[..., Any]] = {
    ("+", 2): lambda a, b: a + b, ("-", 2): lambda a, b: a - b, ("*", 2): lambda a, b: a * b,
    ("<", 2): lambda a, b: a < b, ("<=", 2): lambda a, b: a <= b, (">", 2): lambda a, b: a > b,
    (">=", 2): lambda a, b: a >= b, ("==", 2): lambda a, b: a == b, ("!=", 2): lambda a, b: a != b,
    ("not", 1): lambda a: a, ("neg", 1): lambda a: -a,
}  # fmt: skip
