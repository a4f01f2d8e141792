"""Matrix products in TVMScript: operands, masks, and the choice of a micro-kernel.

Where rows of both sides run along K, lanes are partial sums over K (`tvm_lanes`); where rows of b
run along N, lanes are columns of the result, and elements of a are broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from ...ir.core import Operation, Value
from ...ir.types import dtype_of
from . import lanes as tvm_lanes
from . import rows as tvm_rows
from .loops import corner_masks, elementwise, lanes_for, versioned
from .products import Product, wide_block
from .values import Access, Held, grouped, scaled, stored

if TYPE_CHECKING:
    from .emit import Emitter

TURN_ROWS = 12
"""From so many rows of a on, b is turned round first, and lanes are columns of the result."""


def product_of(emitter: Emitter, operation: Operation, acc: Held | None = None) -> Product:
    """Return the parts of a `tile.dot`; b is turned so that it is indexed [n, k]."""
    a, b = (emitter.of(value) for value in operation.operands[:2])
    m, k = a.shape
    if not operation.attribute("transpose_b"):
        inner = b
        b = Held(b.dtype, (b.shape[1], k), lambda at, access: inner.at([at[1], at[0]], access))
    acc = acc or emitter.of(operation.operands[2])
    ahead = _ahead(emitter, operation, b, m)
    producer = emitter.analysis.producer.get(operation.operands[1].name)
    loaded = producer is not None and producer.name == "tile.load" and b.buffer is None
    lies = loaded and dtype_of(producer.operands[0].type) == "f32"  # type: ignore[union-attr]
    along = runs_along_k(emitter, operation)
    left = operation.operands[0].name, emitter.analysis.region_of[operation.result.name]
    return Product(a, b, acc, m, b.shape[0], k, along, ahead, lies, left)


def _ahead(
    emitter: Emitter, operation: Operation, b: Held, rows: int
) -> Callable[[str, str], str] | None:
    """Return the element of b to prefetch: in the loop's next round, if only memory tells where
    that lies, or in the next program, if several rows of a keep this one busy meanwhile."""
    analysis, value = emitter.analysis, operation.operands[1]
    future: dict[str, Held] = {}
    if analysis.gathers(value, analysis.region_of[operation.result.name]):
        future = emitter.ahead
    elif rows > 1 and analysis.streams(value):
        future = emitter.next_program
    if not future or b.buffer is not None:
        return None
    return lambda n, k: emitter.looking_at(future, lambda: b.at([n, k], Access()))


def runs_along_k(emitter: Emitter, operation: Operation) -> bool:
    """Tell whether elements of b that follow each other in memory follow each other along K."""
    producer = emitter.analysis.producer.get(operation.operands[1].name)
    turned = producer is not None and producer.name == "tile.transpose"
    return bool(operation.attribute("transpose_b")) != turned


def emit_dot(emitter: Emitter, operation: Operation) -> None:
    """Write a product; into lanes or a carried buffer where the loop around it wants it so."""
    lanes = emitter.lanes.get(operation.result.name)
    if lanes is not None:
        parts = product_of(emitter, operation, _zero())
        _masked(emitter, parts, lambda product: tvm_lanes.accumulate(emitter, product, lanes))
        return
    parts = product_of(emitter, operation)
    target = emitter.targets.get(operation.result.name) or emitter.out.allocate(
        operation.result.name, (parts.m, parts.n), "f32"
    )
    _masked(emitter, parts, lambda product: _write(emitter, product, target))
    emitter.define(operation.result, stored(target, "f32", (parts.m, parts.n)))


def _masked(emitter: Emitter, parts: Product, body: Callable[[Product], None]) -> None:
    """Write the product for whole tiles; where masks cut in, first copy what they leave."""

    def masks(held: Held) -> str | None:
        def visit(at: Sequence[str], access: Access) -> list[str]:
            held.at(at, access)
            return []

        return corner_masks(visit, [["0", str(extent - 1)] for extent in held.shape])

    def copied() -> None:
        fixed = {
            side: _scratch(emitter, held, side == "b" and not parts.along_k)
            for side, held in sides.items()
            if masks(held) != ""
        }
        lies = parts.lies and "b" not in fixed
        body(replace(parts, ahead=None, lies=lies, left=None, **fixed))

    sides = {"a": parts.a, "b": parts.b, "acc": parts.acc}
    conditions = [masks(held) for held in sides.values()]
    whole = None if None in conditions else " and ".join(text for text in conditions if text)
    always = parts if whole == "" else replace(parts, left=None)
    versioned(emitter.out, whole, lambda: body(always), copied)


def _scratch(emitter: Emitter, held: Held, turned: bool) -> Held:
    """Copy an operand into a local buffer, in the order in which it lies in memory."""
    out = emitter.out
    shape = held.shape[::-1] if turned else held.shape
    buffer = out.allocate("part", shape, held.dtype)

    def order(at: Sequence[str]) -> Sequence[str]:
        return at[::-1] if turned else at

    def visit(at: Sequence[str], access: Access) -> list[str]:
        return [f"{buffer}[{', '.join(at)}] = {held.at(order(at), access)}"]

    elementwise(out, shape, visit)
    return Held(held.dtype, held.shape, lambda at, access: f"{buffer}[{', '.join(order(at))}]")


def _zero() -> Held:
    return Held("f32", (1, 1), lambda at, access: "T.float32(0)")


def _write(emitter: Emitter, parts: Product, target: str) -> None:
    """Write a whole product into `target`."""
    vector = emitter.out.vector
    wide_k, wide_n = lanes_for(parts.k, vector) > 1, lanes_for(parts.n, vector) > 1
    if parts.along_k and wide_k and not (wide_n and parts.m >= TURN_ROWS):
        tvm_lanes.write(emitter, parts, target)
    elif wide_n:
        _columns(emitter, _turned(emitter, parts) if parts.along_k else parts, target)
    else:
        _plain(emitter, parts, target)


def _turned(emitter: Emitter, parts: Product) -> Product:
    """Copy b into a buffer [K, N], so that its rows run along N."""
    out = emitter.out
    buffer, size = out.allocate("turned", (parts.k, parts.n), "f32"), out.vector
    if size >= 8 and parts.k % size == 0 and parts.n % size == 0:
        with out.loop(parts.n // size, "nb") as nb, out.loop(parts.k // size, "kb") as kb:

            def read(row: int, lane: str) -> str:
                return parts.b_at(scaled(nb, size, str(row)), scaled(kb, size, lane), lane)

            def write(row: int, lane: str) -> str:
                return f"{buffer}[{scaled(kb, size, str(row))}, {scaled(nb, size, lane)}]"

            tvm_rows.turn(out, size, read, write)
    else:
        with out.loop(parts.k, "k") as k, out.loop(parts.n, "n") as n:
            out.line(f"{buffer}[{k}, {n}] = {parts.b_at(n, k, '')}")
    held = Held("f32", (parts.n, parts.k), lambda at, access: f"{buffer}[{at[1]}, {at[0]}]")
    return replace(parts, b=held)


def _plain(emitter: Emitter, parts: Product, target: str) -> None:
    out = emitter.out
    with out.loops((parts.m, parts.n)) as at:
        total = out.allocate("total", (1,), "f32")
        out.line(f"{total}[0] = {parts.acc.typed(at, Access(honour=True)).text}")
        with out.loop(parts.k, "k") as k:
            product = f"{parts.a_at(at[0], k, '')} * {parts.b_at(at[1], k, '')}"
            out.line(f"{total}[0] = {total}[0] + {product}")
        out.line(f"{target}[{', '.join(at)}] = {total}[0]")


def _columns(emitter: Emitter, parts: Product, target: str) -> None:
    """Lanes along N: a block of results stays in registers for all of K."""
    out = emitter.out
    lanes = lanes_for(parts.n, out.vector)
    rows, vectors = wide_block(parts.m, parts.n // lanes, emitter.accumulators)
    with out.loop(parts.m // rows, "mb") as mb, out.loop(parts.n // lanes // vectors, "nb") as nb:
        pairs = list(product(range(rows), range(vectors)))
        names = [out.allocate("sums", (lanes,), "f32") for _ in pairs]  # larger: not in registers

        def each(visit: Callable[[str, str, str, str], str]) -> None:
            with out.loop(lanes, "l", "vectorized") as lane:
                for (row, v), name in zip(pairs, names, strict=True):
                    n = scaled(grouped(scaled(nb, vectors, str(v))), lanes, lane)
                    out.line(visit(f"{name}[{lane}]", scaled(mb, rows, str(row)), n, lane))

        def start(place: str, m: str, n: str, lane: str) -> str:
            return f"{place} = {parts.acc.typed([m, n], Access(lane=lane)).text}"

        each(start)
        with out.loop(parts.k, "k") as k:
            passes = parts.m // rows
            if parts.ahead and vectors % passes == 0:  # each pass over b prefetches a part
                with out.loop(vectors // passes, "n", "unroll") as v:
                    mine = scaled(grouped(scaled(v, passes, mb)), 1)
                    n = scaled(grouped(scaled(nb, vectors, mine)), lanes)
                    out.line(f"T.evaluate(m_prefetch({parts.ahead(n, k)}))")
            each(
                lambda place, m, n, lane: (
                    f"{place} = {place} + {parts.a_at(m, k, lane)} * {parts.b_at(n, k, lane)}"
                )
            )
        each(lambda place, m, n, lane: f"{target}[{m}, {n}] = {place}")


def accumulates_lanes(emitter: Emitter, product: Operation, argument: Value) -> bool:
    """Tell whether a carried value does nothing but accumulate products along K."""
    if product.name != "tile.dot" or product.operands[2] != argument:
        return False
    uses = emitter.analysis.uses
    if len(uses.get(argument.name, [])) != 1 or len(uses.get(product.result.name, [])) != 1:
        return False
    extent = product.operands[0].type.parameters[1][1]  # type: ignore[index]
    wide = lanes_for(extent, emitter.out.vector) > 1  # type: ignore[arg-type]
    return runs_along_k(emitter, product) and wide
