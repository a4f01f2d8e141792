"""Lowering of fetches: launches that bring what is selected to a layer's cache, and decode there.

What fetches ahead is launched on a queue of its own, `up`; it touches lists, books of the cache and
scratch memory that nothing else has. `passes.graph.launch_pipeline` finds what must wait for it.
On a CPU lists are activations, [B, K, L]; on a GPU those of the step's work list, flat, in memory
that all layers share (`runtime.attention.sparse_lists`): once for queries, and once for predicted
ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ....ir.core import Operation, Term, Value
from ....ir.types import dtype_of, tensor
from ..sparse import key_cache
from ..sparse.held_attention import HeldParts, held_decode, held_parts
from .key_cache import Lists, cache_shape, forget_written, launch
from .sparse import (
    EXTENT,
    FIRST,
    gathered_shape,
    listed_launches,
    listed_shapes,
    listed_term,
    lower_select,
    reading,
    reads,
)

if TYPE_CHECKING:
    from .lower import _Lowering

GPU_KEYS, GPU_PARTS = 1024, 16
"""On a GPU: entries of a list that a program looks at at a time, and programs that share a list or
a key head's rows."""


@dataclass
class Fetches:
    """What fetches lowered so far have left: of each layer fetched ahead its lists, and of each
    result the select, and on a CPU the values of rows and counts."""

    ahead: dict[int, tuple[Value, ...]] = field(default_factory=dict)
    brought: dict[str, tuple[Operation, tuple[Value, ...]]] = field(default_factory=dict)


def lower_fetch(lowering: _Lowering, op: Operation) -> list[Operation]:
    """Scores and lists, then the cache's launches; what is fetched ahead is launched apart, and so
    is the copy of what is late, beside which the next layer's lists are made."""
    ahead, layer = bool(op.attribute("ahead")), op["layer"]
    select = lowering.makers[op.operands[0].name]
    lists = (_lists_on_gpu if lowering.on_gpu else _lists)(lowering, select, ahead)
    shape, calls = cache_shape(lowering, select), list(lists.calls)
    if lowering.on_gpu:
        shape = replace(shape, keys=GPU_KEYS, parts=GPU_PARTS)
    if not ahead:
        written = lowering.makers[select.operands[0].name]
        calls += forget_written(lowering, written, written.operands[2])
    for build in (key_cache.look, key_cache.free, key_cache.place):
        kernel = lowering.once(build, shape, ahead)
        calls.append(launch(lowering, op, kernel, lists, apart=ahead))
    copy = lowering.once(key_cache.fetch, shape, shape.parts)
    calls.append(launch(lowering, op, copy, Lists([], {}), apart=True))
    if ahead:
        lowering.fetches.ahead[layer] = lists.operands[2:]
        return calls
    rows: tuple[Value, ...] = ()
    if not lowering.on_gpu:
        rows = (lowering.names.value("rows", tensor("i32", "B", select["kv_heads"], EXTENT)),)
        lists.where["rows"] = Term("out", (0,))
    calls.append(launch(lowering, op, lowering.once(key_cache.rows, shape), lists, *rows))
    lowering.fetches.brought[op.result.name] = (select, (*rows, *lists.operands[3:]))
    return calls


def _lists(lowering: _Lowering, select: Operation, ahead: bool) -> Lists:
    """Lists as activations."""
    views = lowering.makers[select.operands[2].name]
    budget = "plan_guess_budget" if ahead else "plan_budget"
    calls, _, (chosen, counts) = lower_select(lowering, select, budget)
    names = ("page_table", "kv_lengths", "chosen", "counts")
    where = {name: Term("in", (place,)) for place, name in enumerate(names)}
    return Lists(calls, where, (*views.operands, chosen, counts))


def _lists_on_gpu(lowering: _Lowering, select: Operation, ahead: bool) -> Lists:
    """Lists in memory that all layers share; those of predicted queries have their own."""
    q, layer = select.operands[0], select["layer"]
    kernels, _ = listed_shapes(lowering, select, select["scale"], dtype_of(q.type))
    names = ("B", "E", "C", "pages", "row_page", "base", "kv_lengths", "rows")
    where = {name: listed_term(name, layer, FIRST) for name in names}
    own = {name: Term(f"plan_guess_{name}" if ahead else f"plan_{name}")
           for name in ("chosen", "counts", "budgets")}  # fmt: skip
    calls = []
    for kernel in kernels:
        terms = [own.get(value.name) or listed_term(value.name, layer, FIRST)
                 for value in kernel.regions[0].arguments]  # fmt: skip
        calls.append(lowering.call(select, kernel, terms, (q,) if reads(kernel, "q") else (), ()))
    return Lists(calls, where | own)


def lower_held(
    lowering: _Lowering, op: Operation, partial: Operation, fetch: Operation
) -> list[Operation]:
    """Decode over the rows that a fetch has brought."""
    select, listed = lowering.fetches.brought[fetch.result.name]
    if lowering.on_gpu:
        return _held_on_gpu(lowering, op, partial, select)
    _, lengths = lowering.makers[select.operands[2].name].operands
    kernel = lowering.once(held_decode, gathered_shape(lowering, select, partial["scale"]))
    layer = fetch["layer"]
    terms = [Term(name) for name in ("B", "L", "HP")]
    terms += [Term("in", (place,)) for place in range(4)]
    terms += [Term("held_k", (layer,)), Term("held_v", (layer,)), Term("out", (0,))]
    return [lowering.call(op, kernel, terms, (partial.operands[0], lengths, *listed))]


def _held_on_gpu(
    lowering: _Lowering, op: Operation, partial: Operation, select: Operation
) -> list[Operation]:
    """The step's work list, sparse items over the cache, and the join of what it left in slots."""
    q, layer = partial.operands[0], select["layer"]
    _, shape = listed_shapes(lowering, select, partial["scale"], dtype_of(op.result.type))
    held = {"chosen": Term("plan_rows"), "HP": Term("HP"), "held_k": Term("held_k", (layer,)),
            "held_v": Term("held_v", (layer,))}  # fmt: skip
    calls = []
    listed = lowering.once(held_parts, HeldParts(**vars(shape)))
    for kernel, operands, results in reading(listed_launches(lowering, shape, listed), q, op):
        out = Term("out", (0,)) if results else Term("in", (len(operands) - 1,))
        terms = [held.get(value.name) or listed_term(value.name, layer, out)
                 for value in kernel.regions[0].arguments]  # fmt: skip
        calls.append(lowering.call(op, kernel, terms, operands, results))
    return calls
