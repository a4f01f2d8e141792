"""A lowered function made ready for launching: what is known once is resolved once.

A recipe has slots (weights, pages, extents, step inputs, places in the arena) and calls over
slots. Binding it to a step fills the slots that depend on the step, and zips calls with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from operator import itemgetter
from typing import Any

from torch import Tensor

from ...codegen.addresses import values_of
from ...ir.core import Operation, Symbol, Term
from ...ir.types import dtype_of, shape_of
from .dtypes import TORCH
from .host_products import BLAS, HostProduct
from .library import ROUTINES, SCALES, Launch, matmul, nothing
from .weights import Weight

PLANNED = "plan_"
"""How the names of a step's attention lists begin; a window's width may follow."""

Convert = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Memory:
    """What functions are bound to, the same for all steps."""

    kernels: Mapping[str, Any]
    weights: Mapping[str, Weight]
    k: list[Tensor]  # a layer each: [N, K, P, C]
    v: list[Tensor]
    tables: Mapping[str, Tensor]  # cos and sin [positions, C / 2]
    arena: Tensor  # bytes
    convert: Convert
    layers: Mapping[str, list[Tensor | None]] = field(default_factory=dict)  # labels, ... by name
    scratch: Tensor | None = None  # bytes that products widen their operands in
    product: HostProduct = BLAS  # multiplies f32 rows


@dataclass
class _Slots:
    """Numbers what calls take: a key a slot; keys are ("extent", T), ("input", name), ..."""

    keys: list[tuple[Any, ...]] = field(default_factory=list)
    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def number(self, *key: Any) -> int:
        if key not in self.numbers:
            self.numbers[key] = len(self.keys)
            self.keys.append(key)
        return self.numbers[key]


@dataclass(frozen=True, eq=False)
class _OneOf:
    """Launches of kernels that take the same: by the way that a step's attention list was planned
    for; else for steps of up to some rows, and of more. Where these are `only` for some ways,
    others launch nothing."""

    few: Callable[..., Any]
    many: Callable[..., Any]
    up_to: int
    ways: Mapping[str, Callable[..., Any]]
    only: Sequence[str]

    def of(self, rows: int, way: str) -> Callable[..., Any]:
        """Return the one for a step."""
        if self.only and way not in self.only:
            return nothing
        return self.ways.get(way) or (self.few if rows <= self.up_to else self.many)


class Recipe:
    """The calls of one lowered graph.func.

    `outputs` names inputs of `bind` that results are written to, in the order of the graph.return;
    without them results lie in the arena.
    """

    def __init__(self, function: Operation, memory: Memory, outputs: Sequence[str] = ()) -> None:
        self._memory = memory
        self.apart = bool(function.attribute("apart"))
        """Whether its steps may read no keys for many rows at once."""
        self.ways: set[str] = set()
        """What its steps' attention lists may be planned for, besides what is usual."""
        self._slots = _Slots()
        self._places: dict[str, tuple[Any, ...]] = {}
        self._calls: list[tuple[Any, tuple[int, ...]]] = []
        self.kernels: list[tuple[str, str]] = []
        """Of each launch: the kernel or routine, and the graph operation that it computes."""
        self.writes: list[int | None] = []
        """Of each launch: the layer whose keys and values it writes."""
        region = function.regions[0]
        for value in region.arguments:
            self._places[value.name] = ("input", value.name)
        offsets = dict(function["memory"]["offsets"].items)
        returned = [value.name for value in region.operations[-1].operands]
        given = dict(zip(returned, outputs, strict=True)) if outputs else {}
        for operation in region.operations:
            for value in operation.results:
                if operation.name == "graph.weight":
                    place: tuple[Any, ...] = ("weight", value.name)
                elif value.name in given:
                    place = ("input", given[value.name])
                else:
                    place = ("arena", offsets[value.name], value.type)
                self._places[value.name] = place
            self._add(operation)
        self._head = self._head_of(region.operations)
        self.calls_library = any(function in ROUTINES for function, _ in self._calls)
        """Whether some launches are the library's."""
        self._static: list[Any] = [self._known(key) for key in self._slots.keys]
        self._ready = [
            memory.convert(item) if isinstance(item, Tensor) else item for item in self._static
        ]
        self._first = self._first_uses()
        self._takes = [itemgetter(*slots) if len(slots) > 1 else None for _, slots in self._calls]
        self._known_values = values_of(self._static)

    def bind(
        self, inputs: Mapping[str, Tensor | int], extents: Mapping[str, int], way: str = "",
        filled: Mapping[str, int] | None = None,
    ) -> tuple[list[Launch], Tensor]:  # fmt: skip
        """Return the launches of a step, and the tensor that will hold its logits."""
        launches, logits = self.flow(inputs, extents, filled, way)
        return list(launches), logits

    def flow(
        self, inputs: Mapping[str, Tensor | int], extents: Mapping[str, int],
        filled: Mapping[str, int] | None = None, way: str = "", by_address: bool = False,
    ) -> tuple[Iterator[Launch], Tensor]:  # fmt: skip
        """Return the same launches one by one, each bound when it is taken: a device begins with
        the first while the others are bound.

        The library's products are of the rows that `filled` says, where it says more than
        `extents`: what stands behind the step's own is of no matter, and nothing reads what
        comes of it. `way`: what the step's attention list was planned for. With `by_address`
        kernels that can are launched so (`addressed`): what a step says is looked at once, not
        again in each layer."""
        raw, ready, convert = list(self._static), list(self._ready), self._memory.convert
        wide, extended = list(self._static), {**extents, **(filled or {})}
        values, kinds = map(list, self._known_values)

        def fill(slots: Sequence[int]) -> None:
            for slot in slots:
                key = self._slots.keys[slot]
                found = raw[slot] = wide[slot] = self._of_step(key, inputs, extents)
                ready[slot] = convert(found) if isinstance(found, Tensor) else found
                if filled and key[0] == "arena":
                    wide[slot] = self._of_step(key, inputs, extended)
            if by_address and slots:
                named = values_of([raw[slot] for slot in slots])
                for slot, value, kind in zip(slots, *named, strict=True):
                    values[slot], kinds[slot] = value, kind

        def launches() -> Iterator[Launch]:
            calls = zip(self._calls, self._first, self._takes, strict=True)
            for (function, slots), first, take in calls:
                fill(first)
                if isinstance(function, str):
                    operands = wide if function in SCALES else raw
                    yield self._routine(function, slots, operands)
                    continue
                several = isinstance(function, _OneOf)
                launch = function.of(extents["T"], way) if several else function
                addressed = getattr(launch, "addressed", None) if by_address else None
                if addressed is not None and take is not None:
                    yield addressed, (take(values), take(kinds), partial(take, ready))
                else:
                    yield launch, tuple([ready[slot] for slot in slots])

        if raw[self._result] is None:
            fill((self._result,))
        return launches(), raw[self._result]

    def _routine(self, name: str, slots: Sequence[int], values: Sequence[Any]) -> Launch:
        operands = [values[slot] for slot in slots]
        if name != "matmul":
            return ROUTINES[name](operands)
        return matmul(operands, self._memory.scratch, self._memory.product.launch)

    def library_calls(
        self, extents: Mapping[str, int], routines: Sequence[str]
    ) -> list[tuple[str, list[Any]]]:  # fmt: skip
        """Return a step's launches of some of the library's routines, and the values of each."""

        def value(slot: int) -> Any:
            known = self._static[slot]
            return self._of_step(self._slots.keys[slot], {}, extents) if known is None else known

        return [
            (routine, [value(slot) for slot in slots])
            for routine, slots in self._calls
            if isinstance(routine, str) and routine in routines
        ]

    def head(self, extents: Mapping[str, int]) -> tuple[Tensor, Tensor] | None:
        """Return x [R, K] and the weight [V, K] whose product is the logits, and the last launch;
        None: something else is."""
        if self._head is None:
            return None
        (_, offset, type), (_, weight) = self._head
        return self._view(offset, type, extents), self._memory.weights[weight].data

    def _head_of(self, operations: Sequence[Operation]) -> list[tuple[Any, ...]] | None:
        """Return the places of x and of the weight of a last product without a bias."""
        product = [op for op in operations if op.name in {"graph.call", "graph.library"}][-1]
        gives = product.results[:1] == operations[-1].operands[:1]  # a section may end in a write
        if not gives or product.attribute("of") != "graph.matmul":
            return None
        places = [self._places[value.name] for value in product.operands]
        return places if [kind for kind, *_ in places] == ["arena", "weight"] else None

    def _first_uses(self) -> list[tuple[int, ...]]:
        """Return for each call the slots that the step says and no call before takes."""
        left = {slot for slot, item in enumerate(self._static) if item is None}
        found = []
        for _, slots in self._calls:
            found.append(tuple(dict.fromkeys(slot for slot in slots if slot in left)))
            left.difference_update(slots)
        return found

    def _add(self, operation: Operation) -> None:
        """Resolve one operation; what each call launches is kept in `kernels`."""
        if operation.name in {"graph.call", "graph.library"}:
            kernel = (
                operation["kernel"].name if operation.name == "graph.call" else operation["routine"]
            )
            self.kernels.append((kernel, operation.attribute("of", operation.name)))
            self.writes.append(_written(operation))
        if operation.name == "graph.return":
            self._result = self._place(operation.operands[0].name)
        elif operation.name == "graph.library":
            values = (*operation.results, *operation.operands)
            slots = [self._place(value.name) for value in values]
            if operation["routine"] in SCALES:
                place = SCALES[operation["routine"]]
                weight = operation.operands[place].name
                slots.insert(place + 2, self._slots.number("scale", weight))
            self._calls.append((operation["routine"], tuple(slots)))
        elif operation.name == "graph.call":
            slots = [self._argument(operation, term) for term in operation["arguments"]]
            self._calls.append((self._launch(operation), tuple(slots)))

    def _launch(self, call: Operation) -> Callable[..., Any] | _OneOf:
        """Return the launch of a call's kernel, or of one of several."""

        def of(kernel: Symbol) -> Callable[..., Any]:
            return self._memory.kernels[kernel.name].launch

        few, ways, only = (call.attribute(name) for name in ("few", "ways", "only"))
        if few is None and ways is None and only is None:
            return of(call["kernel"])
        by_way = {name: of(kernel) for name, kernel in ways.items} if ways else {}
        self.ways |= by_way.keys() | {name for name in only or () if name}
        many = of(call["kernel"])
        return _OneOf(
            of(few) if few else many, many, call.attribute("up_to", 0), by_way, only or ()
        )

    def _place(self, name: str) -> int:
        return self._slots.number(*self._places[name])

    def _argument(self, operation: Operation, term: Term) -> int:
        if term.name.startswith(PLANNED):
            window = "".join(str(number) for number in term.parameters)
            return self._slots.number("input", term.name + window)
        if not term.parameters:
            kind = "table" if term.name in self._memory.tables else "extent"
            return self._slots.number(kind, term.name)
        (index,) = term.parameters
        if term.name in {"k", "v"} or term.name in self._memory.layers:
            return self._slots.number(term.name, index)
        values = operation.results if term.name == "out" else operation.operands
        name = values[index].name  # type: ignore[index]
        if term.name == "scale":
            return self._slots.number("scale", name)
        flat = ("flat",) if term.name == "flat" else ()
        return self._slots.number(*flat, *self._places[name])

    def _known(self, key: tuple[Any, ...]) -> Tensor | None:
        """Return what a slot always holds; None where the step says it (or a scale is absent)."""
        memory = self._memory
        match key:
            case ("weight", name):
                return memory.weights[name].data
            case ("scale", name) if name in memory.weights:  # rows of the head have none
                return memory.weights[name].scale
            case ("k", layer):
                return memory.k[layer]
            case ("v", layer):
                return memory.v[layer]
            case ("table", name):
                return memory.tables[name]
            case (str(name), int(layer)) if name in memory.layers:
                return memory.layers[name][layer]
        return None

    def _of_step(
        self, key: tuple[Any, ...], inputs: Mapping[str, Tensor | int], extents: Mapping[str, int]
    ) -> Tensor | int | None:
        match key:
            case ("extent", name):
                return extents[name]
            case ("input", name):
                return inputs[name]
            case ("arena", offset, type):
                return self._view(offset, type, extents)
            case ("flat", "arena", offset, type):
                return self._view(offset, type, extents).flatten()
        return None

    def _view(self, offset: int, type: Term, extents: Mapping[str, int]) -> Tensor:
        shape = [extents[d.name] if isinstance(d, Term) else d for d in shape_of(type)]
        dtype = TORCH[dtype_of(type)]
        end = offset + prod(shape) * dtype.itemsize
        return self._memory.arena[offset:end].view(dtype).view(shape)


def _written(call: Operation) -> int | None:
    """Return the layer whose keys and values a launch writes to their slots, if it does."""
    if call.attribute("of") not in {"graph.kv_write", "graph.qkv_rope_write"}:
        return None
    layers = (term.parameters[0] for term in call["arguments"] if term.name == "k")
    return next(layers, None)  # type: ignore[arg-type]
