"""Reductions that stand side by side, as one: warps of a program then wait once for each other.

A sum over an axis that several warps share goes through shared memory, with a barrier before and
one behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...ir.core import Operation
from ...ir.dialects.tile import extents_of
from ...ir.types import dtype_of
from ..tile_analysis import integer_identity
from .names import identifier

_TEXTS = {"sum": "{0} + {1}", "max": "tl.maximum({0}, {1})", "min": "tl.minimum({0}, {1})"}
_PADDING = {"sum": "0", "max": "-float('inf')", "min": "float('inf')"}
MOST = 8
"""Reductions at once: each holds registers until all are done."""


def reductions(
    operations: Sequence[Operation | str], shapes: Mapping[str, tuple[int, ...]], warps: int
) -> Iterator[list[Operation | str]]:
    """Return operations one by one, but reductions that several warps can do at once together: of
    32-bit integers, so that no order of additions matters, and of tiles that padding, by the
    `shapes` of values, leaves as they are. What stands between operations stays there."""
    group: list[Operation] = []
    for operation in operations:
        fits = warps > 1 and isinstance(operation, Operation) and _may_join(operation, shapes)
        if group and not (fits and _goes_with(group, operation)):
            yield [*group]
            group = []
        if fits and isinstance(operation, Operation):
            group.append(operation)
        else:
            yield [operation]
    if group:
        yield [*group]


def at_once(first: Operation, others: Sequence[Operation | str]) -> str:
    """Return the line of reductions that `reductions` has put together."""
    group = [first, *(each for each in others if isinstance(each, Operation))]
    results = ", ".join(identifier(operation.result.name) for operation in group)
    operands = ", ".join(identifier(operation.operands[0].name) for operation in group)
    return f"{results} = {_name(first['op'], len(group))}({operands}, {first['axis']})"


def padding(op: str, dtype: str) -> str:
    """Return what padded lanes hold, so that they change no reduction."""
    return _PADDING[op] if dtype.startswith(("f", "bf")) else str(integer_identity(op, dtype))


def reduction_lines(body: Sequence[str]) -> list[str]:
    """Return the functions that the lines of a kernel reduce several tiles with; interpreted, where
    no warp waits, they do it one by one."""
    wanted = [(op, count) for op in _TEXTS for count in range(2, MOST + 1)
              if any(f" = {_name(op, count)}(" in line for line in body)]  # fmt: skip
    lines = []
    for op, count in wanted:
        left, right = ([f"{side}{n}" for n in range(count)] for side in "ab")
        both = ", ".join(_TEXTS[op].format(*pair) for pair in zip(left, right, strict=True))
        each = ", ".join(f"tl.{op}({name}, axis)" for name in left)
        name, values = _name(op, count), ", ".join(left)
        lines += [
            "", "@triton.jit", f"def {name}_both({values}, {', '.join(right)}):",
            f"    return {both}",
            "", "@triton.jit", f"def {name}({values}, axis: tl.constexpr):",
            "    if INTERPRETED:", f"        return {each}",
            f"    return tl.reduce(({values}), axis, {name}_both)", "",
        ]  # fmt: skip
    return lines


def _name(op: str, count: int) -> str:
    return f"{op}_of_{count}"


def _may_join(operation: Operation, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether an operation is a reduction that may be done with others."""
    if operation.name != "tile.reduce":
        return False
    value = operation.operands[0]
    whole = shapes.get(value.name, ()) == tuple(extents_of(value.type))
    return dtype_of(value.type) == dtype_of(operation.result.type) == "i32" and whole


def _goes_with(group: Sequence[Operation], operation: Operation | str) -> bool:
    """Whether a reduction is alike those of a group. It needs none of them: a result has an axis
    less than what it is of, which is of one type in a group."""
    if isinstance(operation, str) or len(group) == MOST:
        return False
    first, value = group[0], operation.operands[0]
    alike = all(operation[key] == first[key] for key in ("op", "axis"))
    return alike and value.type == first.operands[0].type
