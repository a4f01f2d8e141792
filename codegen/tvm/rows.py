"""Products of many rows: lanes are rows of a, and elements of b are broadcast.

Both sides run along K. Each tile of a is turned round once. Rows of b are read some at a time,
while those after them are asked for: where they lie, if they are f32 and an instruction broadcasts
as it multiplies (AVX-512); else from a copy as f32, where they lie close together (rows a power of
two apart would share a few cache sets). Accumulators are results, so no lanes are left to sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .loops import Writer
from .products import Product
from .values import Access, grouped, scaled

if TYPE_CHECKING:
    from .emit import Emitter

Weight = Callable[[int, str], str]
"""Writes an element of b: of a row of its block, at a place of its chunk."""

UNROLL = 4

IN_PLACE = 16
"""Rows of b that are read at a time where they lie: more would have too few cache sets."""

CHUNK = 256
"""Elements along K that are copied at a time: with their rows they stay in the first cache."""


def fits(emitter: Emitter, m: int, n: int, k: int) -> bool:
    """Tell whether a product [m, n] over k is made of whole vectors of rows."""
    lanes = emitter.out.vector
    whole = lanes >= 8 and m % lanes == 0 and k % lanes == 0
    return whole and columns_of(n, emitter.accumulators) >= max(4, emitter.accumulators // 3)


def columns_of(n: int, most: int) -> int:
    """Return how many rows of b to take at a time: each has a vector of sums, up to `most`."""
    return max(c for c in range(1, min(n, most) + 1) if n % c == 0)


def accumulate(emitter: Emitter, parts: Product, memory: str) -> None:
    """Add a product to `memory`, an array [n, m]."""
    out, lanes, turned = emitter.out, emitter.out.vector, _turned(emitter, parts)
    columns = columns_of(parts.n, IN_PLACE)
    if parts.lies and emitter.accumulators >= IN_PLACE <= 2 * columns:
        with out.loop(parts.n // columns, "nb") as nb, out.loop(parts.m // lanes, "mb") as mb:
            place = Place(nb, columns, "0", parts.k, 1)

            def lying(column: int, k: str) -> str:
                return parts.b_at(scaled(nb, columns, str(column)), k, "")

            _block(out, parts, (turned, memory), place, mb, lying, lanes)
        return
    columns = columns_of(parts.n, emitter.accumulators)
    packed = out.allocate("packed", (columns, CHUNK + lanes), "f32")

    def copied(column: int, k: str) -> str:
        return f"{packed}[{column}, {k}]"

    chunk = max(c for c in range(lanes, CHUNK + 1, lanes) if parts.k % c == 0)
    with out.loop(parts.n // columns, "nb") as nb, out.loop(parts.k // chunk, "cb") as cb:
        place = Place(nb, columns, cb, chunk, parts.k // chunk)
        with out.loop(columns, "n") as n, out.loop(chunk // lanes, "kb") as kb:
            with out.loop(lanes, "l", "vectorized") as lane:
                k = scaled(kb, lanes, lane)
                value = parts.b_at(scaled(nb, columns, n), scaled(cb, chunk, k), lane)
                out.line(f"{packed}[{n}, {k}] = {value}")
        with out.loop(parts.m // lanes, "mb") as mb:
            _block(out, parts, (turned, memory), place, mb, copied)


def _turned(emitter: Emitter, parts: Product) -> str:
    """Return a buffer [k, m] of a; products of one region have one of the same a."""
    out, lanes = emitter.out, emitter.out.vector
    if parts.left in emitter.turned:
        return emitter.turned[parts.left]
    turned = out.allocate("turned", (parts.k, parts.m), "f32")
    with out.loop(parts.m // lanes, "mb") as mb, out.loop(parts.k // lanes, "kb") as kb:
        turn(
            out,
            lanes,
            lambda row, lane: parts.a_at(
                scaled(mb, lanes, str(row)), scaled(kb, lanes, lane), lane
            ),
            lambda row, lane: f"{turned}[{scaled(kb, lanes, str(row))}, {scaled(mb, lanes, lane)}]",
        )  # fmt: skip
    if parts.left is not None:
        emitter.turned[parts.left] = turned
    return turned


@dataclass(frozen=True)
class Place:
    """A block of rows of b, and a chunk of K."""

    nb: str
    columns: int
    cb: str
    chunk: int
    chunks: int


def _block(
    out: Writer, parts: Product, names: tuple[str, str], place: Place, mb: str,
    weight: Weight, unroll: int = UNROLL,
) -> None:  # fmt: skip
    """Add the products of a block of rows of b with one vector of rows; `weight` is the text of a
    row's element of the chunk."""
    turned, memory = names
    lanes = out.vector
    sums = [out.allocate("sums", (lanes,), "f32") for _ in range(place.columns)]

    def each(line: Callable[[str, str, str], str]) -> None:
        for column, name in enumerate(sums):
            with out.loop(lanes, "l", "vectorized") as lane:
                row = scaled(place.nb, place.columns, str(column))
                out.line(line(name, lane, f"{memory}[{row}, {scaled(mb, lanes, lane)}]"))

    each(lambda name, lane, at: f"{name}[{lane}] = {at}")
    with out.loop(place.chunk // lanes, "kb") as kb:
        if parts.ahead is not None:
            _prefetch(out, parts, place, scaled(kb, lanes))
        with out.loop(lanes // unroll, "ko") as ko, out.loop(unroll, "ki", "unroll") as ki:
            k = scaled(grouped(scaled(kb, lanes // unroll, ko)), unroll, ki)
            with out.loop(lanes, "l", "vectorized") as lane:
                x = f"{turned}[{scaled(place.cb, place.chunk, k)}, {scaled(mb, lanes, lane)}]"
                for column, name in enumerate(sums):
                    out.line(f"{name}[{lane}] = {name}[{lane}] + {x} * {weight(column, k)}")
    each(lambda name, lane, at: f"{at} = {name}[{lane}]")


def _prefetch(out: Writer, parts: Product, place: Place, k: str) -> None:
    """Ask for the next chunk of these rows, or after the last for the first of the next rows."""
    first, columns, depth = scaled(place.nb, place.columns), str(place.columns), k
    if place.chunks > 1:
        last = f"{grouped(place.cb)} == {place.chunks - 1}"
        columns, row = f"T.Select({last}, {columns}, 0)", out.fresh("row")
        out.line(f"{row}: T.int32 = {first} + {columns}")
        depth = out.fresh("depth")
        out.line(f"{depth}: T.int32 = T.Select({last}, 0, ({place.cb} + 1) * {place.chunk}) + {k}")
    else:
        row = f"{first} + {columns}"
    for column in range(place.columns):
        text = parts.b.at([f"({row} + {column})", depth], Access())
        out.line(f"T.evaluate(m_prefetch({text}))")


def turn(
    out: Writer,
    lanes: int,
    read: Callable[[int, str], str],
    write: Callable[[int, str], str],
) -> None:
    """Turn a square round in registers: `read(row, lane)` becomes `write(lane, row)`."""
    rows = [out.allocate("square", (lanes,), "f32") for _ in range(lanes)]
    for row, name in enumerate(rows):
        with out.loop(lanes, "l", "vectorized") as lane:
            out.line(f"{name}[{lane}] = {read(row, lane)}")
    width = lanes // 2
    whole = f"T.Ramp(0, 1, {lanes})"
    while width:
        after = [out.allocate("square", (lanes,), "f32") for _ in range(lanes)]
        for row in range(lanes):
            low, high = rows[row & ~width], rows[row | width]
            odd = int(bool(row & width))
            out.line(
                f"{after[row]}[{whole}] = m_swap({low}[{whole}], {high}[{whole}], "
                f"{lanes}, {width}, {odd})"
            )
        rows, width = after, width // 2
    for row, name in enumerate(rows):
        with out.loop(lanes, "l", "vectorized") as lane:
            out.line(f"{write(row, lane)} = {name}[{lane}]")
