"""Lowering of a layer's cache of keys: its launches, and what leaves it as a step writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....ir.core import Operation, Term, Value
from ..sparse import key_cache
from ..sparse.key_cache import KeyCache

if TYPE_CHECKING:
    from .lower import _Lowering

UP = "up"
"""The queue of what crosses the link ahead."""
OF_LAYER = frozenset({
    "k", "v", "held_k", "held_v", "row_of", "slot_of", "marks", "hand", "counters",
})  # fmt: skip
"""What a layer has of its own: pools, and the cache with its books."""
SCRATCH = frozenset({"victims", "spare", "asked", "fresh_slot", "fresh_row", "fresh"})
"""What passes from launch to launch of one fetch."""


@dataclass(frozen=True)
class Lists:
    """The launches that make the lists of a fetch, and where the cache's launches find them: the
    terms of arguments by name, and the values that those name."""

    calls: list[Operation]
    where: dict[str, Term]
    operands: tuple[Value, ...] = ()


def fetches(lowering: _Lowering, layer: int) -> bool:
    """Whether a step fetches what a layer reads; otherwise it reads all where it lies."""
    return any(op.name == "graph.fetch" and op["layer"] == layer for op in lowering.makers.values())


def forget_written(lowering: _Lowering, op: Operation, slots: Value) -> list[Operation]:
    """The slots that a step writes leave the cache. The lists of what was fetched ahead live until
    then, when that fetch has been waited for."""
    shape = KeyCache(op["kv_heads"], op["head_dim"], lowering.options.page_size)
    operands = (slots, *lowering.fetches.ahead.get(op["layer"], ()))
    where = {"slots": Term("in", (0,))}
    kernel = lowering.once(key_cache.forget, shape)
    return [launch(lowering, op, kernel, Lists([], where, operands))]


def cache_shape(lowering: _Lowering, select: Operation) -> KeyCache:
    """Return the shape of the cache of a layer that selects."""
    options = lowering.options
    return KeyCache(select["kv_heads"], select["head_dim"], options.page_size, options.kv,
                    lowering.on_gpu)  # fmt: skip


def launch(
    lowering: _Lowering, op: Operation, kernel: Operation, lists: Lists, *results: Value,
    apart: bool = False,
) -> Operation:  # fmt: skip
    """Return a call, on the queue `up` where it is `apart`: a layer's memory is named by its
    number, scratch by who uses it."""
    layer, ahead = op["layer"], bool(op.attribute("ahead"))

    def term(name: str) -> Term:
        if name in OF_LAYER:
            return Term(name, (layer,))
        if name in SCRATCH:
            return Term(f"guess_{name}" if ahead else name)
        return lists.where.get(name) or Term(name)

    terms = [term(value.name) for value in kernel.regions[0].arguments]
    call = lowering.call(op, kernel, terms, lists.operands, results)
    return call.with_attributes(queue=Term(UP)) if apart else call
