"""Matrix products in TVMScript: register-blocked micro-kernels.

When rows of both sides run along K, lanes are partial sums over K (`lanes`); when rows of b run
along N, lanes are columns of the result (`columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..ir.core import Operation, Value
from ..ir.types import shape_of
from .tvm_expressions import coerce
from .tvm_loops import Writer, corner_masks, lanes_for, versioned
from .tvm_values import Access, Held, scaled, stored

if TYPE_CHECKING:
    from .emit_tvm import Emitter

REGISTERS = 24
"""Accumulators that a micro-kernel holds: of 32 vector registers some are for operands."""


@dataclass(frozen=True)
class Product:
    """The parts of one product: a [M, K], b by (n, k), acc [M, N] and extents."""

    a: Held
    b: Held
    acc: Held
    m: int
    n: int
    k: int
    along_k: bool


def product_of(emitter: Emitter, operation: Operation, acc: Held | None = None) -> Product:
    """Return the parts of a `tile.dot`; b is turned so that it is indexed [n, k]."""
    a, b = (emitter.of(value) for value in operation.operands[:2])
    along_k = bool(operation.attribute("transpose_b")) or _transposed(emitter, operation.operands[1])
    m, k = a.shape
    if not operation.attribute("transpose_b"):
        inner = b
        b = Held(b.dtype, (b.shape[1], k), lambda at, access: inner.at([at[1], at[0]], access))
    return Product(a, b, acc or emitter.of(operation.operands[2]), m, b.shape[0], k, along_k)


def _transposed(emitter: Emitter, value: Value) -> bool:
    producer = emitter.analysis.producer.get(value.name)
    return producer is not None and producer.name == "tile.transpose"


def emit_dot(emitter: Emitter, operation: Operation) -> None:
    """Write a product; into lanes or a carried buffer where the loop around it wants it so."""
    lanes = emitter.lanes.get(operation.result.name)
    if lanes is not None:
        parts = product_of(emitter, operation, _zero())
        _masked(emitter, parts, lambda product: _accumulate(emitter, product, lanes))
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
            side: _scratch(emitter, held)
            for side, held in (("a", parts.a), ("b", parts.b))
            if masks(held) != ""
        }
        body(replace(parts, **fixed))

    conditions = [masks(parts.a), masks(parts.b)]
    whole = None if None in conditions else " and ".join(text for text in conditions if text)
    versioned(emitter.out, whole, lambda: body(parts), copied)


def _scratch(emitter: Emitter, held: Held) -> Held:
    """Copy an operand into a local buffer, element by element."""
    out = emitter.out
    buffer = out.allocate("part", held.shape, held.dtype)
    with out.loops(held.shape) as at:
        out.line(f"{buffer}[{', '.join(at)}] = {held.at(at, Access(honour=True))}")
    return stored(buffer, held.dtype, held.shape)


def _zero() -> Held:
    return Held("f32", (1, 1), lambda at, access: "T.float32(0)")


def _write(emitter: Emitter, parts: Product, target: str) -> None:
    """Write a whole product into `target`."""
    vector = emitter.out.vector
    if parts.along_k and lanes_for(parts.k, vector) > 1:
        _rows(emitter, parts, target)
    elif lanes_for(parts.n, vector) > 1:
        _columns(emitter, parts, target)
    else:
        _plain(emitter, parts, target)


def _plain(emitter: Emitter, parts: Product, target: str) -> None:
    out = emitter.out
    with out.loops((parts.m, parts.n)) as at:
        total = out.allocate("total", (1,), "f32")
        out.line(f"{total}[0] = {parts.acc.at(at, Access(honour=True))}")
        with out.loop(parts.k, "k") as k:
            left, right = _a(parts, at[0], k, ""), _b(parts, at[1], k, "")
            out.line(f"{total}[0] = {total}[0] + {left} * {right}")
        out.line(f"{target}[{', '.join(at)}] = {total}[0]")


def _rows(emitter: Emitter, parts: Product, target: str) -> None:
    """Lanes along K: each result is the sum of one vector of partial sums."""
    out = emitter.out
    lanes = lanes_for(parts.k, out.vector)
    rows, columns = _block(parts.m, parts.n, limit=min(15, 1024 // (4 * lanes) - 1))
    with out.loop(parts.m // rows, "mb") as mb, out.loop(parts.n // columns, "nb") as nb:
        sums = [out.allocate("sums", (columns * lanes,), "f32") for _ in range(rows)]
        for name in sums:
            _clear(out, name, columns, lanes)
        _inner_k(emitter, parts, sums, (mb, rows), (nb, columns), lanes)
        for row, name in enumerate(sums):
            m = scaled(mb, rows, str(row))
            with out.loop(columns, "n", "unroll") as column:
                at = [m, scaled(nb, columns, column)]
                whole = f"m_sum({name}[T.Ramp({scaled(column, lanes)}, 1, {lanes})], {lanes})"
                start = parts.acc.typed(at, Access()).text
                out.line(f"{target}[{', '.join(at)}] = {start} + {whole}")


def _clear(out: Writer, name: str, count: int, lanes: int) -> None:
    with out.loop(count, "n", "unroll") as column, out.loop(lanes, "l", "vectorized") as lane:
        out.line(f"{name}[{scaled(column, lanes, lane)}] = T.float32(0)")


def _inner_k(
    emitter: Emitter, parts: Product, sums: Sequence[str], m_block: tuple[str, int],
    n_block: tuple[str, int], lanes: int,
) -> None:  # fmt: skip
    """The innermost loop over K of `_rows`: rows are written out, columns unrolled."""
    out = emitter.out
    steps = parts.k // lanes
    unroll = emitter.schedule.unroll if steps % emitter.schedule.unroll == 0 else 1
    with out.loop(steps // unroll, "k") as k, out.loop(unroll, "u", "unroll") as u:
        base = _group(scaled(k, unroll, u))
        with out.loop(n_block[1], "n", "unroll") as column:
            n = scaled(n_block[0], n_block[1], column)
            for row, name in enumerate(sums):
                m = scaled(m_block[0], m_block[1], str(row))
                with out.loop(lanes, "l", "vectorized") as lane:
                    at = scaled(base, lanes, lane)
                    place = f"{name}[{scaled(column, lanes, lane)}]"
                    product = f"{_a(parts, m, at, lane)} * {_b(parts, n, at, lane)}"
                    out.line(f"{place} = {place} + {product}")


def _columns(emitter: Emitter, parts: Product, target: str) -> None:
    """Lanes along N: elements of a are broadcast."""
    out = emitter.out
    lanes = lanes_for(parts.n, out.vector)
    rows, vectors = _block(parts.m, parts.n // lanes, limit=min(8, 1024 // (4 * lanes) - 1))
    with out.loop(parts.m // rows, "mb") as mb:
        with out.loop(parts.n // lanes // vectors, "nb") as nb:
            names = [out.allocate("sums", (vectors * lanes,), "f32") for _ in range(rows)]

            def each(visit: Callable[[str, str, str, str, str], str]) -> None:
                for row, name in enumerate(names):
                    m = scaled(mb, rows, str(row))
                    with out.loop(vectors, "n", "unroll") as v:
                        with out.loop(lanes, "l", "vectorized") as lane:
                            n = scaled(_group(scaled(nb, vectors, v)), lanes, lane)
                            out.line(visit(f"{name}[{scaled(v, lanes, lane)}]", m, n, lane, row))

            def start(place: str, m: str, n: str, lane: str, row: int) -> str:
                return f"{place} = {parts.acc.typed([m, n], Access(lane=lane)).text}"

            each(start)
            with out.loop(parts.k, "k") as k:
                each(
                    lambda place, m, n, lane, row: f"{place} = {place} + "
                    f"{_a(parts, m, k, lane)} * {_b(parts, n, k, lane)}"
                )
            each(lambda place, m, n, lane, row: f"{target}[{m}, {n}] = {place}")


def _block(m: int, n: int, limit: int) -> tuple[int, int]:
    """Return the micro-kernel's rows and columns: divisors of m and n, the most that fit."""
    best, shape = 0.0, (1, 1)
    for rows in (r for r in range(1, min(m, 8) + 1) if m % r == 0):
        for columns in (c for c in range(1, limit + 1) if n % c == 0):
            if rows * columns <= REGISTERS and rows * columns + min(rows, columns) < 31:
                worth = rows * columns / (rows + columns)
                if worth > best + 1e-9:
                    best, shape = worth, (rows, columns)
    return shape


def accumulates_lanes(emitter: Emitter, product: Operation, argument: Value) -> bool:
    """Tell whether a carried value does nothing but accumulate products along K."""
    if product.name != "tile.dot" or product.operands[2] != argument:
        return False
    uses = emitter.analysis.uses
    if len(uses.get(argument.name, [])) != 1 or len(uses.get(product.result.name, [])) != 1:
        return False
    transposed = product.attribute("transpose_b") or _transposed(emitter, product.operands[1])
    extent = shape_of(product.operands[0].type)[1]
    return bool(transposed) and lanes_for(extent, emitter.out.vector) > 1  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lanes:
    """Partial sums of an accumulator [m, n]: a buffer a row in registers, or one in memory."""

    names: tuple[str, ...]
    m: int
    n: int
    lanes: int


def open_lanes(
    emitter: Emitter, product: Operation, argument: Value, start: Held
) -> Callable[[Value], Held]:
    """Clear the partial sums before a loop; return what sums them up after it."""
    out = emitter.out
    m, n = start.shape
    lanes = lanes_for(shape_of(product.operands[0].type)[1], out.vector)  # type: ignore[arg-type]
    if m * n <= REGISTERS and n * lanes * 4 < 1024:
        held = Lanes(tuple(out.allocate("sums", (n * lanes,), "f32") for _ in range(m)), m, n, lanes)
        for name in held.names:
            _clear(out, name, n, lanes)
    else:
        held = Lanes((out.allocate("sums", (m, n * lanes), "f32"),), m, n, lanes)
        _clear_memory(out, held)
    emitter.lanes[product.result.name] = held
    emitter.define(argument, start)
    return lambda result: _close_lanes(emitter, result, held, start)


def _clear_memory(out: Writer, held: Lanes) -> None:
    with out.loop(held.m, "m") as m, out.loop(held.n, "n") as n:
        with out.loop(held.lanes, "l", "vectorized") as lane:
            out.line(f"{held.names[0]}[{m}, {scaled(n, held.lanes, lane)}] = T.float32(0)")


def _close_lanes(emitter: Emitter, result: Value, held: Lanes, start: Held) -> Held:
    """Write the accumulator that partial sums and the initial value add up to."""
    out = emitter.out
    buffer = out.allocate(result.name, (held.m, held.n), "f32")

    def row(m: str, name: str, prefix: str, kind: str) -> None:
        with out.loop(held.n, "n", kind) as n:
            ramp = f"T.Ramp({scaled(n, held.lanes)}, 1, {held.lanes})"
            first = start.typed([m, n], Access(honour=True)).text
            whole = f"m_sum({name}[{prefix}{ramp}], {held.lanes})"
            out.line(f"{buffer}[{m}, {n}] = {first} + {whole}")

    if len(held.names) == held.m:
        for place, name in enumerate(held.names):
            row(str(place), name, "0, " if _in_memory(held) else "", "unroll")
    else:
        with out.loop(held.m, "m") as m:
            row(m, held.names[0], f"{m}, ", "serial")
    return stored(buffer, "f32", (held.m, held.n))


def _in_memory(held: Lanes) -> bool:
    return held.m * held.n > REGISTERS or held.n * held.lanes * 4 >= 1024


def _accumulate(emitter: Emitter, parts: Product, held: Lanes) -> None:
    """Add one product to partial sums: in registers all along, or block by block."""
    if not _in_memory(held):
        _inner_k(emitter, parts, held.names, ("0", 1), ("0", held.n), held.lanes)
        return
    out, lanes = emitter.out, held.lanes
    rows, columns = _block(parts.m, parts.n, limit=min(15, 1024 // (4 * lanes) - 1))
    with out.loop(parts.m // rows, "mb") as mb, out.loop(parts.n // columns, "nb") as nb:
        sums = [out.allocate("sums", (columns * lanes,), "f32") for _ in range(rows)]

        def each(text: str) -> None:
            for row, name in enumerate(sums):
                m = scaled(mb, rows, str(row))
                with out.loop(columns, "n", "unroll") as n, out.loop(lanes, "l", "vectorized") as l:  # noqa: E741
                    whole = scaled(_group(scaled(nb, columns, n)), lanes, l)
                    here = f"{name}[{scaled(n, lanes, l)}]"
                    out.line(text.format(here=here, there=f"{held.names[0]}[{m}, {whole}]"))

        each("{here} = {there}")
        _inner_k(emitter, parts, sums, (mb, rows), (nb, columns), lanes)
        each("{there} = {here}")


def _group(text: str) -> str:
    return f"({text})" if " " in text else text


def _a(parts: Product, m: str, k: str, lane: str) -> str:
    """Return an element of a as f32."""
    return coerce(parts.a.typed([m, k], Access(lane=lane)), "f32")


def _b(parts: Product, n: str, k: str, lane: str) -> str:
    """Return an element of b as f32."""
    return coerce(parts.b.typed([n, k], Access(lane=lane)), "f32")
