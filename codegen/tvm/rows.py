"""Products of many rows: lanes are rows of a, and elements of b are broadcast.

Both sides run along K. Each tile of a is turned round once; some rows of b at a time are copied,
as f32, to where they lie close together (rows a power of two apart would share a few cache sets),
while the rows after them are asked for. Accumulators are results, so no lanes are left to sum.
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

UNROLL = 4

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
    out, lanes = emitter.out, emitter.out.vector
    columns = columns_of(parts.n, emitter.accumulators)
    turned = out.allocate("turned", (parts.k, parts.m), "f32")
    packed = out.allocate("packed", (columns, CHUNK + lanes), "f32")
    with out.loop(parts.m // lanes, "mb") as mb, out.loop(parts.k // lanes, "kb") as kb:
        turn(
            out,
            lanes,
            lambda row, lane: parts.a_at(
                scaled(mb, lanes, str(row)), scaled(kb, lanes, lane), lane
            ),
            lambda row, lane: f"{turned}[{scaled(kb, lanes, str(row))}, {scaled(mb, lanes, lane)}]",
        )  # fmt: skip
    chunk = max(c for c in range(lanes, CHUNK + 1, lanes) if parts.k % c == 0)
    with out.loop(parts.n // columns, "nb") as nb, out.loop(parts.k // chunk, "cb") as cb:
        place = Place(nb, columns, cb, chunk, parts.k // chunk)
        with out.loop(columns, "n") as n, out.loop(chunk // lanes, "kb") as kb:
            with out.loop(lanes, "l", "vectorized") as lane:
                k = scaled(kb, lanes, lane)
                value = parts.b_at(scaled(nb, columns, n), scaled(cb, chunk, k), lane)
                out.line(f"{packed}[{n}, {k}] = {value}")
        with out.loop(parts.m // lanes, "mb") as mb:
            _block(out, parts, (turned, packed, memory), place, mb)


@dataclass(frozen=True)
class Place:
    """A block of rows of b, and a chunk of K."""

    nb: str
    columns: int
    cb: str
    chunk: int
    chunks: int


def _block(out: Writer, parts: Product, names: tuple[str, str, str], place: Place, mb: str) -> None:
    """Add the products of one packed block with one vector of rows."""
    turned, packed, memory = names
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
        with out.loop(lanes // UNROLL, "ko") as ko, out.loop(UNROLL, "ki", "unroll") as ki:
            k = scaled(grouped(scaled(kb, lanes // UNROLL, ko)), UNROLL, ki)
            with out.loop(lanes, "l", "vectorized") as lane:
                x = f"{turned}[{scaled(place.cb, place.chunk, k)}, {scaled(mb, lanes, lane)}]"
                for column, name in enumerate(sums):
                    w = f"{packed}[{column}, {k}]"
                    out.line(f"{name}[{lane}] = {name}[{lane}] + {x} * {w}")
    each(lambda name, lane, at: f"{at} = {name}[{lane}]")


def _prefetch(out: Writer, parts: Product, place: Place, k: str) -> None:
    """Ask for the next chunk of these rows, or after the last for the first of the next rows."""
    row, depth = out.fresh("row"), out.fresh("depth")
    last = f"{grouped(place.cb)} == {place.chunks - 1}"
    out.line(
        f"{row}: T.int32 = {scaled(place.nb, place.columns)} + T.Select({last}, {place.columns}, 0)"
    )
    out.line(f"{depth}: T.int32 = T.Select({last}, 0, ({place.cb} + 1) * {place.chunk}) + {k}")
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
