"""Products whose lanes are partial sums along K: the micro-kernel, and sums kept across a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from ...ir.core import Operation, Value
from ...ir.types import shape_of
from . import rows as tvm_rows
from .loops import Writer, elementwise, lanes_for
from .products import SMALL, Product, block
from .values import Access, Held, grouped, scaled, stored

if TYPE_CHECKING:
    from .emit import Emitter

CACHED = 4096
"""Elements of a that stay in the first-level cache beside what streams through it."""

Place = tuple[str, int]
"""A block of rows or columns: its number, and how many it has."""


@dataclass(frozen=True)
class Partial:
    """Partial sums in registers: a buffer a vector, by row, column and chain.

    Several vectors in one buffer may end up in memory, stored at every step.
    """

    names: tuple[str, ...]
    columns: int
    chains: int
    lanes: int

    def name(self, row: int, column: int, chain: int) -> str:
        """Return the buffer of one vector."""
        return self.names[(row * self.columns + column) * self.chains + chain]

    def total(self, row: int, column: int) -> str:
        """Return the sum of a column's chains, still in lanes."""
        names = (self.name(row, column, chain) for chain in range(self.chains))
        return " + ".join(f"{name}[T.Ramp(0, 1, {self.lanes})]" for name in names)


def allocate(out: Writer, rows: int, columns: int, chains: int, lanes: int) -> Partial:
    """Allocate partial sums and clear them."""
    names = [out.allocate("sums", (lanes,), "f32") for _ in range(rows * columns * chains)]
    with out.loop(lanes, "l", "vectorized") as lane:
        for name in names:
            out.line(f"{name}[{lane}] = T.float32(0)")
    return Partial(tuple(names), columns, chains, lanes)


def multiply(out: Writer, parts: Product, sums: Partial, m: Place, n: Place) -> None:
    """Write the innermost loop: add a block's products to its partial sums."""
    steps, passes = parts.k // sums.lanes // sums.chains, parts.m // m[1]
    with out.loop(steps, "k") as k:
        for chain, column in product(range(sums.chains), range(n[1])):
            base = grouped(scaled(k, sums.chains, str(chain)))
            right_row = scaled(n[0], n[1], str(column))
            if parts.ahead and column < n[1] // passes:  # each pass over b prefetches a part
                mine = scaled(str(column), passes, m[0]) if passes > 1 else str(column)
                line = parts.ahead(scaled(n[0], n[1], mine), scaled(base, sums.lanes))
                out.line(f"T.evaluate(m_prefetch({line}))")
            with out.loop(sums.lanes, "l", "vectorized") as lane:
                at = scaled(base, sums.lanes, lane)
                right = parts.b_at(right_row, at, lane)
                for row in range(m[1]):
                    left = parts.a_at(scaled(m[0], m[1], str(row)), at, lane)
                    place = f"{sums.name(row, column, chain)}[{lane}]"
                    out.line(f"{place} = {place} + {left} * {right}")


def fold(out: Writer, sums: Partial, row: int, put: Callable[[str, str], str]) -> None:
    """Sum the lanes of each column of a row; `put(column, text)` writes a result.

    As many columns as lanes allow are summed together, where their number is a power of two.
    """
    together = sums.columns & -sums.columns
    together = min(together, sums.lanes)
    if together < 2:
        for column in range(sums.columns):
            out.line(put(str(column), f"m_sum({sums.total(row, column)}, {sums.lanes})"))
        return
    for first in range(0, sums.columns, together):
        folded = out.allocate("folded", (together,), "f32")
        vectors = ", ".join(sums.total(row, first + i) for i in range(together))
        out.line(f"{folded}[T.Ramp(0, 1, {together})] = m_sums({sums.lanes}, {vectors})")
        with out.loop(together, "n", "vectorized") as n:
            out.line(put(scaled(n, 1, str(first)) if first else n, f"{folded}[{n}]"))


def chains_for(steps: int, wanted: int, room: int) -> int:
    """Return how many independent sums along K: a divisor of the steps, at most `wanted`."""
    return max(c for c in range(1, max(1, min(wanted, room, steps)) + 1) if steps % c == 0)


def shape_of_block(emitter: Emitter, parts: Product) -> tuple[int, int, int]:
    """Return a micro-kernel's rows, columns and chains along K."""
    lanes = lanes_for(parts.k, emitter.out.vector)
    streams = emitter.schedule.streams or _streams(parts)
    most = emitter.accumulators
    rows, columns = block(parts.m, parts.n, min(streams, 12), most)
    room = min(SMALL // columns, most // (rows * columns))
    return rows, columns, chains_for(parts.k // lanes, emitter.schedule.unroll, room)


def _streams(parts: Product) -> int:
    """Return how many rows of b to read at a time.

    Prefetchers follow few streams best, but each row read by itself reads all of a again: so one
    where a stays in the first-level cache, two where rows are short pages, else eight. A tile of
    at most 512 along K counts as a piece of longer rows.
    """
    if parts.ahead is not None and parts.k < 512:
        return 2
    return 1 if parts.k > 512 and parts.m * parts.k <= CACHED else 8


def write(emitter: Emitter, parts: Product, target: str) -> None:
    """Write a whole product: each result is the sum of one vector of partial sums."""
    out = emitter.out
    rows, columns, chains = shape_of_block(emitter, parts)
    lanes = lanes_for(parts.k, out.vector)
    together = lanes_for(parts.n, lanes)
    later = columns < together
    memory = out.allocate("sums", (parts.m, parts.n, lanes), "f32") if later else ""
    with out.loop(parts.m // rows, "mb") as mb, out.loop(parts.n // columns, "nb") as nb:
        sums = allocate(out, rows, columns, chains, lanes)
        multiply(out, parts, sums, (mb, rows), (nb, columns))
        for row in range(rows):
            m = scaled(mb, rows, str(row))
            if later:
                for n in range(columns):
                    place = f"{memory}[{m}, {scaled(nb, columns, str(n))}, T.Ramp(0, 1, {lanes})]"
                    out.line(f"{place} = {sums.total(row, n)}")
                continue

            def put(column: str, text: str, m: str = m) -> str:
                at = [m, scaled(nb, columns, column)]
                return f"{target}[{', '.join(at)}] = {parts.acc.typed(at, Access()).text} + {text}"

            fold(out, sums, row, put)
    if later:
        _fold_memory(out, parts, memory, target, (lanes, together))


def _fold_memory(
    out: Writer, parts: Product, memory: str, target: str, sizes: tuple[int, int]
) -> None:
    """Sum the lanes of all results, as many together as there are lanes."""
    lanes, together = sizes
    folded = out.allocate("folded", (together,), "f32")
    with out.loop(parts.m, "m") as m, out.loop(parts.n // together, "nb") as nb:
        vectors = ", ".join(
            f"{memory}[{m}, {scaled(nb, together, str(n))}, T.Ramp(0, 1, {lanes})]"
            for n in range(together)
        )
        out.line(f"{folded}[T.Ramp(0, 1, {together})] = m_sums({lanes}, {vectors})")
        with out.loop(together, "n", "vectorized") as n:
            at = [m, scaled(nb, together, n)]
            first = parts.acc.typed(at, Access()).text
            out.line(f"{target}[{', '.join(at)}] = {first} + {folded}[{n}]")


@dataclass(frozen=True)
class Lanes:
    """The partial sums of a carried accumulator [m, n]: in registers, or in one buffer.

    `turned`: the buffer is [n, m], of whole sums (`tvm_rows`).
    """

    m: int
    n: int
    lanes: int
    registers: Partial | None
    memory: str
    turned: bool = False


def open_lanes(
    emitter: Emitter, dot: Operation, argument: Value, start: Held
) -> Callable[[Value], Held]:
    """Clear the partial sums before a loop; return what sums them up after it."""
    out = emitter.out
    m, n = start.shape
    extent: int = shape_of(dot.operands[0].type)[1]  # type: ignore[assignment]
    lanes = lanes_for(extent, out.vector)
    if tvm_rows.fits(emitter, m, n, extent):
        held = Lanes(m, n, lanes, None, out.allocate("sums", (n, m), "f32"), turned=True)
        zero = f"{held.memory}[{{}}] = T.float32(0)"
        elementwise(out, (n, m), lambda at, access: [zero.format(", ".join(at))])
        emitter.lanes[dot.result.name] = held
        emitter.define(argument, start)
        return lambda result: _close_turned(emitter, result, held, start)
    shape = Product(start, start, start, m, n, extent, True)
    rows, columns, chains = shape_of_block(emitter, shape)
    if (rows, columns) == (m, n):
        held = Lanes(m, n, lanes, allocate(out, m, n, chains, lanes), "")
    else:
        held = Lanes(m, n, lanes, None, out.allocate("sums", (m, n, lanes), "f32"))
        zero = f"{held.memory}[{{}}] = T.float32(0)"
        elementwise(out, (m, n, lanes), lambda at, access: [zero.format(", ".join(at))])
    emitter.lanes[dot.result.name] = held
    emitter.define(argument, start)
    return lambda result: _close(emitter, result, held, start)


def _close(emitter: Emitter, result: Value, held: Lanes, start: Held) -> Held:
    """Write the accumulator that partial sums and the initial value add up to."""
    out = emitter.out
    buffer = out.allocate(result.name, (held.m, held.n), "f32")

    def put(m: str, n: str, text: str) -> str:
        return f"{buffer}[{m}, {n}] = {start.typed([m, n], Access(honour=True)).text} + {text}"

    if held.registers is not None:
        for row in range(held.m):
            fold(out, held.registers, row, lambda n, text, row=row: put(str(row), n, text))
    else:
        with out.loop(held.m, "m") as m, out.loop(held.n, "n") as n:
            vector = f"{held.memory}[{m}, {n}, T.Ramp(0, 1, {held.lanes})]"
            out.line(put(m, n, f"m_sum({vector}, {held.lanes})"))
    return stored(buffer, "f32", (held.m, held.n))


def _close_turned(emitter: Emitter, result: Value, held: Lanes, start: Held) -> Held:
    """Turn sums [n, m] round into the accumulator, and add the initial value."""
    out, size = emitter.out, emitter.out.vector
    buffer = out.allocate(result.name, (held.m, held.n), "f32")
    if held.n % size:
        with out.loop(held.m, "m") as m, out.loop(held.n, "n") as n:
            first = start.typed([m, n], Access(honour=True)).text
            out.line(f"{buffer}[{m}, {n}] = {first} + {held.memory}[{n}, {m}]")
        return stored(buffer, "f32", (held.m, held.n))
    with out.loop(held.m // size, "mb") as mb, out.loop(held.n // size, "nb") as nb:

        def read(row: int, lane: str) -> str:
            n, m = scaled(nb, size, str(row)), scaled(mb, size, lane)
            return f"{start.typed([m, n], Access(lane=lane)).text} + {held.memory}[{n}, {m}]"

        tvm_rows.turn(out, size, read, lambda row, lane: (
            f"{buffer}[{scaled(mb, size, str(row))}, {scaled(nb, size, lane)}]"
        ))  # fmt: skip
    return stored(buffer, "f32", (held.m, held.n))


def accumulate(emitter: Emitter, parts: Product, held: Lanes) -> None:
    """Add one product to partial sums: in registers all along, or block by block."""
    out = emitter.out
    if held.turned:
        tvm_rows.accumulate(emitter, parts, held.memory)
        return
    if held.registers is not None:
        multiply(out, parts, held.registers, ("0", held.m), ("0", held.n))
        return
    rows, columns, chains = shape_of_block(emitter, parts)
    with out.loop(parts.m // rows, "mb") as mb, out.loop(parts.n // columns, "nb") as nb:
        sums = allocate(out, rows, columns, chains, held.lanes)
        multiply(out, parts, sums, (mb, rows), (nb, columns))
        for row in range(rows):
            for n in range(columns):
                at = f"{scaled(mb, rows, str(row))}, {scaled(nb, columns, str(n))}"
                place = f"{held.memory}[{at}, T.Ramp(0, 1, {held.lanes})]"
                out.line(f"{place} = {place} + {sums.total(row, n)}")
