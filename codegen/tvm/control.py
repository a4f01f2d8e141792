"""`tile.for` in TVMScript: the index, and the values that are carried from round to round.

A carried value lives in a buffer of its own. A matrix product's accumulator is updated in place,
and one that only accumulates products along contiguous rows stays in vector lanes all the way.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from ...ir.core import Operation, Value
from ...ir.types import shape_of
from . import dot, lanes
from .expressions import TVM_DTYPES
from .values import Access, Held, scalar, stored

if TYPE_CHECKING:
    from .emit import Emitter


def emit_for(emitter: Emitter, operation: Operation) -> None:
    """Write a loop and bind its results."""
    lo, hi, *initial = operation.operands
    region = operation.regions[0]
    index, *carried = region.arguments
    yielded = region.operations[-1].operands
    finish = [
        _open(emitter, argument, start, final)
        for argument, start, final in zip(carried, initial, yielded, strict=True)
    ]
    low, high = (emitter.of(value).at([], Access(honour=True)) for value in (lo, hi))
    step = operation.attribute("step", 1)
    with _header(emitter, index, low, high, step):
        if _wants_prefetch(emitter, operation):
            ahead = f"T.min({emitter.of(index).at([], Access())} + {step}, {high} - 1)"
            emitter.ahead[index.name] = scalar(ahead, "i32")
        emitter.region(region)
        _update(emitter, carried, yielded)
    for result, argument, close in zip(operation.results, carried, finish, strict=True):
        emitter.define(result, close(result) if close else emitter.of(argument))


def _wants_prefetch(emitter: Emitter, operation: Operation) -> bool:
    """Tell whether some product in the loop loads what only an index in memory can tell."""
    region = operation.regions[0]
    number = emitter.analysis.region_of[region.arguments[0].name]
    return any(
        inner.name == "tile.dot" and emitter.analysis.gathers(inner.operands[1], number)
        for inner in region.operations
    )


def _header(emitter: Emitter, index: Value, low: str, high: str, step: int):  # noqa: ANN202
    out = emitter.out
    name = out.fresh(index.name)
    emitter.define(index, scalar(name, "i32"))
    if step == 1:
        return out.block(f"for {name} in T.serial({low}, {high}):")
    return out.block(f"for {name} in T.serial({low}, {high}, step={step}):")


def _open(emitter: Emitter, argument: Value, start: Value, final: Value):  # noqa: ANN202
    """Give a carried value its place; return how to read it after the loop, if not as it is."""
    held = emitter.of(start)
    product = emitter.analysis.producer.get(final.name)
    if product is not None and dot.accumulates_lanes(emitter, product, argument):
        return lanes.open_lanes(emitter, product, argument, held)
    buffer = emitter.out.allocate(argument.name, held.shape, held.dtype)
    emitter.keep(argument, held, into=buffer)
    place = stored(buffer, held.dtype, held.shape)
    emitter.define(argument, place)
    if product is not None and _in_place(emitter, product, argument):
        emitter.targets[final.name] = buffer
    return None


def _in_place(emitter: Emitter, product: Operation, argument: Value) -> bool:
    """Tell whether a product may overwrite the carried value that its accumulator is made from.

    That holds when the only use of the carried value is the accumulator itself, or a deferred
    map of the same shape which the accumulator is.
    """
    uses = emitter.analysis.uses.get(argument.name, [])
    if product.name not in ("tile.dot", "tile.histogram") or len(uses) != 1:
        return False
    if len(emitter.analysis.uses.get(product.result.name, [])) != 1:
        return False
    accumulator, user = product.operands[-1], uses[0].operation
    if user is product:
        return uses[0].position == len(product.operands) - 1
    letters = string.ascii_lowercase
    return (
        user.name == "tile.map"
        and user["expr"].count(letters[uses[0].position]) == 1
        and shape_of(user.result.type) == shape_of(argument.type)
        and user.result == accumulator
        and emitter.analysis.deferred(user)
    )


def _update(emitter: Emitter, carried: list[Value], yielded: tuple[Value, ...]) -> None:
    """Write the carried values of the next round: all are computed before any is replaced."""
    moves: list[tuple[Value, Held]] = []
    for argument, value in zip(carried, yielded, strict=True):
        place = emitter.of(argument)
        held = emitter.held.get(value.name)
        if value.name in emitter.targets or held is None or place.buffer is None:
            continue
        if held.buffer is None or held.buffer in {emitter.of(other).buffer for other in carried}:
            held = _temporary(emitter, value, held)
        moves.append((argument, held))
    for argument, held in moves:
        emitter.keep(argument, held, into=emitter.of(argument).buffer)


def _temporary(emitter: Emitter, value: Value, held: Held) -> Held:
    if held.shape:
        return emitter.keep(value, held)
    name = emitter.out.fresh(value.name)
    text = held.at([], Access(honour=True))
    emitter.out.line(f"{name}: T.{TVM_DTYPES[held.dtype]} = {text}")
    return scalar(name, held.dtype)
