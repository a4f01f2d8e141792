"""Attention on a GPU: launches over a step's work list, and the join of what they left in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ....ir.core import Operation, Symbol, Table, Term, Value
from ....ir.sparse.policy import READ_WHOLE
from ..attention.grouped import GROUPED
from ..attention.parts import ALL, Parts, attention_parts
from ..attention.ways import (
    CROWD,
    JOINED,
    LARGEST,
    LONG,
    WAVES,
    first_tiles,
    grouped_launches,
    join,
    joined,
    launches,
    long_prompts,
    prompts,
    slim,
    tuned,
    variants,
)
from .value_shapes import format_of

if TYPE_CHECKING:
    from .lower import _Lowering


def lower_parts(
    lowering: _Lowering, op: Operation, q: Value, partial: Operation, kvset: Operation
) -> list[Operation]:  # fmt: skip
    """Return the calls of one layer's attention. With a window the list is that window's: its terms
    carry the window. Where other layers select, theirs say that all is read."""
    window = kvset.attribute("window", 0) or 0
    shape = Parts(
        partial["heads"], partial["kv_heads"], partial["head_dim"], lowering.options.page_size,
        format_of(op), lowering.options.kv, partial["scale"], window,
    )  # fmt: skip
    shape = tuned(shape, shared=not lowering.options.apart)
    of = (window,) if window else (Term(READ_WHOLE),) if lowering.selects else ()
    tiled = [] if lowering.options.rows or of else [lowering.once(prompts, shape)]
    last = lowering.once(join, shape)
    layer = kvset["layer"]

    def call(kernel: Operation, reads: tuple[Value, ...], first: bool) -> Operation:
        """Return a kernel's call; the first is that of which attention's result is."""
        fixed = {
            "T": Term("T"),
            "N": Term("N"),
            "q": Term("in", (0,)),
            "k": Term("k", (layer,)),
            "v": Term("v", (layer,)),
            "out": Term("out", (0,)) if first else Term("in", (len(reads) - 1,)),
        }
        names = (value.name for value in kernel.regions[0].arguments)
        terms = [fixed.get(name) or Term(f"plan_{name}", of) for name in names]
        return lowering.call(op, kernel, terms, reads, op.results if first else ())

    calls: list[Operation] = []
    for kernel in (*tiled, *lowering.once(launches, shape)):
        calls.append(call(kernel, (q, *op.results) if calls else (q,), not calls))
    calls.append(call(last, op.results, False))
    long = lowering.once(long_prompts, shape) if tiled else None
    if long is not None:
        ways = Table.of({LONG: Symbol(lowering.declare(long))})
        calls[0] = calls[0].with_attributes(ways=ways)
    if of:
        return _by_crowd(lowering, shape, calls)
    beside = () if long is None else (LONG,)
    parts = _by_way(lowering, shape, _by_crowd(lowering, shape, calls[len(tiled) :]), beside)
    for way in variants(shape, shared=bool(shape.many)):
        tiles = joined(way, lowering.options.rows)
        if tiles is not None and parts[0].attribute("ways"):
            more = call(lowering.once(attention_parts, tiles), (q, *op.results), False)
            parts = _without_join(way.name, parts, more)
    return [*calls[: len(tiled)], *parts]


def _without_join(way: str, parts: list[Operation], joining: Operation) -> list[Operation]:
    """Return calls of attention, in whose stead one alone is launched in one of their ways."""
    others = {name: kernel for name, kernel in parts[0]["ways"].items if name != way}
    rest = [part.with_attributes(only=("", *others)) for part in parts]
    rest[0] = rest[0].with_attributes(ways=Table.of(others))
    return [rest[0], joining.with_attributes(only=(way,)), *rest[1:]]


def _by_crowd(lowering: _Lowering, shape: Parts, calls: list[Operation]) -> list[Operation]:
    """Return the calls of attention, some of which are of other kernels in steps of many rows."""
    rows = lowering.options.rows or 1 << 30
    kernels = (*lowering.once(launches, shape, rows), lowering.once(join, shape, rows))
    limits = (*((WAVES, CROWD) if shape.many else (CROWD,)), JOINED // shape.heads)
    for place, (kernel, up_to) in enumerate(zip(kernels, limits, strict=True)):
        few, name = calls[place]["kernel"], kernel["name"]
        if name != few:
            other = Symbol(lowering.declare(kernel))
            calls[place] = calls[place].with_attributes(kernel=other, few=few, up_to=up_to)
    return calls


def _by_way(
    lowering: _Lowering, shape: Parts, calls: list[Operation], prompts: Sequence[str]
) -> list[Operation]:
    """Return the same, of which the first, and that of items of few rows beside others, is of
    another kernel in each way that the step's list may be planned for; the ways of `prompts` change
    none of them."""
    found = variants(shape, shared=bool(shape.many))
    if len(found) < 2:
        return calls
    kernels = {way.name: lowering.once(attention_parts, first_tiles(way.tiles)) for way in found}
    others: dict[str, Operation] = {}
    together, small = lowering.once(grouped_launches, shape), lowering.once(slim, shape)
    if together:
        kernels[GROUPED], others[GROUPED] = together
    if small is not None and LARGEST in kernels:
        others[LARGEST] = small
    for place, table in enumerate((kernels, others) if others else (kernels,)):
        ways = {name: Symbol(lowering.declare(kernel)) for name, kernel in table.items()}
        calls[place] = calls[place].with_attributes(ways=Table.of(ways))
    alone = {way.name for way in found if way.tiles.items == ALL}
    if alone:
        beside = [name for name in (*kernels, *prompts) if name not in alone]
        calls[1] = calls[1].with_attributes(only=("", *beside))
    return calls
