"""The verifier: every operation fits its specification, every value is defined once, before use.

Names are unique within a top-level operation (a function or kernel), and these have names of their
own.
"""

from __future__ import annotations

from functools import cache

from .core import Module, Operation, Region, Symbol, Value
from .diagnostics import Note, PassError
from .dialects.dialect import OperationSpec
from .printer import print_operation


class InvalidIR(PassError):
    """IR that breaks a rule of its dialect."""

    template = "{operation}: {problem}"


def verify(module: Module, dialects: tuple[str, ...] | None = None) -> None:
    """Check a module; with `dialects`, also that it uses no other dialect.

    Raises InvalidIR, whose note shows the operation as printed.
    """
    names: set[str] = set()
    _verify_list(module.operations, {}, names, dialects, top=True)
    _verify_symbols(module)


@cache
def specifications() -> dict[str, OperationSpec]:
    """Return the specification of every operation of the four dialects, by name."""
    from .dialects import graph, plan, program, tile

    dialects = (program.DIALECT, plan.DIALECT, graph.DIALECT, tile.DIALECT)
    return {spec.name: spec for dialect in dialects for spec in dialect.operations}


def _verify_list(
    operations: tuple[Operation, ...],
    scope: dict[str, Value],
    names: set[str],
    dialects: tuple[str, ...] | None,
    top: bool = False,
) -> None:
    for position, operation in enumerate(operations):
        spec = specifications().get(operation.name)
        if spec is None:
            raise _invalid(operation, "no dialect has this operation")
        if dialects is not None and operation.dialect not in dialects:
            raise _invalid(operation, f"not allowed here, only {', '.join(dialects)}")
        if spec.terminator and (top or position != len(operations) - 1):
            raise _invalid(operation, "it may only stand last in a region")
        problem = _shape_problem(operation, spec)
        if problem:
            raise _invalid(operation, problem)
        _verify_uses(operation, scope)
        if top:  # functions and kernels stand alone: each names its values as it likes
            names = set(scope)
        for region in operation.regions:
            _verify_region(operation, region, scope, names, dialects)
        problem = spec.check and spec.check(operation)
        if problem:
            raise _invalid(operation, problem)
        for value in operation.results:
            _define(operation, value, scope, names)


def _verify_symbols(module: Module) -> None:
    declared: set[tuple[str, Symbol]] = set()
    for operation in module.operations:
        symbol = operation.attribute("name")
        if not isinstance(symbol, Symbol):
            continue
        if (operation.name, symbol) in declared:
            raise _invalid(operation, f"@{symbol.name} is declared twice")
        declared.add((operation.name, symbol))


def _verify_region(
    operation: Operation,
    region: Region,
    scope: dict[str, Value],
    names: set[str],
    dialects: tuple[str, ...] | None,
) -> None:
    inner = dict(scope)
    for value in region.arguments:
        _define(operation, value, inner, names)
    _verify_list(region.operations, inner, names, dialects)


def _verify_uses(operation: Operation, scope: dict[str, Value]) -> None:
    for value in operation.operands:
        known = scope.get(value.name)
        if known is None:
            raise _invalid(operation, f"%{value.name} is used before it is defined")
        if known.type != value.type:
            raise _invalid(operation, f"%{value.name} is {known.type}, not {value.type}")


def _define(operation: Operation, value: Value, scope: dict[str, Value], names: set[str]) -> None:
    if value.name in names:
        raise _invalid(operation, f"%{value.name} is defined twice")
    names.add(value.name)
    scope[value.name] = value


def _shape_problem(operation: Operation, spec: OperationSpec) -> str | None:
    for what, have, want in (
        ("operands", len(operation.operands), spec.operands),
        ("results", len(operation.results), spec.results),
        ("regions", len(operation.regions), spec.regions),
    ):
        least, most = want if isinstance(want, tuple) else (want, want)
        if have < least or (most is not None and have > most):
            bound = f"{least}" if least == most else f"at least {least}"
            return f"{have} {what}, but it takes {bound}"
    if spec.first is not None and operation.operands[0].type != spec.first:
        return f"it takes a {spec.first} first, not {operation.operands[0].type}"
    present = [key for key, _ in operation.attributes]
    if len(set(present)) != len(present):
        return "an attribute is given twice"
    missing = [key for key in spec.required if key not in present]
    if missing:
        return f"attribute {missing[0]!r} is missing"
    unknown = [key for key in present if key not in spec.required + spec.optional]
    if unknown:
        return f"attribute {unknown[0]!r} is not one of its own"
    return None


def _invalid(operation: Operation, problem: str) -> InvalidIR:
    shown = print_operation(operation)
    if len(shown) > 800:
        shown = shown[:800] + " ..."
    return InvalidIR(
        operation=operation.name,
        problem=problem,
        span=operation.span,
        notes=(Note(f"in this operation:\n{shown}"),),
    )
