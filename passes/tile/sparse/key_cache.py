"""A layer's cache of rows of keys and values whose pools lie across a link, managed by kernels.

A slot is a token's place in the pools (page * P + offset), a row its place in the cache: pools of
the same form, of H rows instead of N * P slots. For each key head `row_of` [K, S] has the row of a
slot (below 0: none) and `slot_of` [K, H] the slot of a row (-1: none). A fetch brings what lists
name that is not there, in five launches, none of which waits for the host:

* `look`: marks rows that are wanted; a slot without one gets the number of an entry that wants it
  (-2 - number), so that of entries of several sequences one brings it.
* `free`: lists the rows that may go, from where the last fetch stopped: the oldest come first. Each
  program has a run of rows and a run of `victims` to itself, and counts the entries that it will
  give a row.
* `place`: gives each slot that is brought a row of those; where a program's begin follows from what
  all have counted.
* `fetch`: copies keys and values, reading the pools where they lie.
* `rows`: says of each entry in which row it stands.

Two fetches work on a layer in one step: one *ahead*, of a predicted list, and the one of the list
itself. The first must not take rows that it wants itself; the second may take all but its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ....ir.core import Operation, Value
from ..builder import KernelBuilder
from ..selection.score_place import Place

GUESSED, BROUGHT, WANTED = 1, 2, 3
"""Marks of a row: a predicted list names it, it came for one, the list itself names it."""
COUNTERS = ("wanted", "held", "predicted", "guessed", "brought")
"""What `look` counts: entries of lists, of these in the cache, of these brought ahead; entries of
predicted lists, of these not in the cache."""


@dataclass(frozen=True)
class KeyCache:
    """The static shape: K key heads of width C in pages of P tokens; `flat` as in `labels.Scores`.
    `keys` entries are looked at at a time, `parts` programs share a list or a key head's rows."""

    kv_heads: int
    head_dim: int
    page: int
    kv: str = "f32"
    flat: bool = False
    keys: int = 64
    parts: int = 1

    def name(self, kind: str) -> str:
        """A name that tells the shape."""
        name = f"keys_{kind}_{self.kv_heads}_{self.page}_{self.keys}" + "_flat" * self.flat
        return name + (f"_{self.parts}" if self.parts > 1 else "")


class _Entries:
    """The entries of lists of chosen tokens: where they stand, and which slots they name."""

    def __init__(self, shape: KeyCache, kind: str) -> None:
        self.shape = shape
        b = self.b = KernelBuilder(shape.name(kind))
        self.sequences = b.scalar("B")
        for extent in ("N", "E", "C") if shape.flat else ("N", "MAXP"):
            b.scalar(extent)
        self.extent = None if shape.flat else b.scalar("L")
        self.slots, self.held = b.scalar("S"), b.scalar("H")
        self.lists = Place(b, shape.flat, shape.page)
        self.lengths = b.buffer("kv_lengths", "i32", "B")
        self.chosen = self.lists.buffer("chosen", "i32", shape.kv_heads)
        self.counts = b.buffer("counts", "i32", "B", shape.kv_heads)
        self.row_of = b.buffer("row_of", "i32", shape.kv_heads, "S")
        self.lane = b.iota(shape.keys)
        self.facts = ("B >= 0", "N >= 1", "H >= 1", f"S == N * {shape.page}", *self.lists.facts)

    def enter(self, head: Value, sequence: Value) -> None:
        """Say whose list is looked at."""
        b = self.b
        self.head, self.sequence = head, sequence
        self.lists.enter(head, sequence)
        self.length = b.load(self.lengths, sequence, hint="length")
        count = b.load(self.counts, sequence, head, hint="count")
        self.count = b.map("min(a, b)", count, self.length, dtype="i32", hint="count")

    def block(self, base: Value) -> tuple[Value, Value, Value]:
        """Return the entries of a block, which of them there are, and the slots that they name."""
        b, page = self.b, self.shape.page
        entry = b.map("a + b", base, self.lane, dtype="i32", hint="entry")
        inside = b.map("a < b", entry, self.count, hint="inside")
        key = b.load(self.chosen, *self.lists.at(entry), mask=inside, hint="chosen")
        key = b.map("max(min(a, b - 1), 0)", key, self.length, dtype="i32", hint="key")
        index = b.map(f"a // {page}", key, dtype="i32", hint="index")
        if self.shape.flat:
            assert self.lists.pages is not None
            place = b.map("a + b", self.lists.entry, index, dtype="i32", hint="place")
            number = b.load(self.lists.pages, place, mask=inside, hint="page_id")
        else:
            number = b.load(self.lists.table, self.sequence, index, mask=inside, hint="page_id")
        text = f"min(max(a * {page} + b % {page}, 0), c - 1)"
        return entry, inside, b.map(text, number, key, self.slots, dtype="i32", hint="slot")

    def claim(self, entry: Value) -> Value:
        """Return the numbers by which entries claim slots."""
        b = self.b
        if self.shape.flat:
            return b.map("-2 - a - b", self.lists.start, entry, dtype="i32", hint="claim")
        assert self.extent is not None
        return b.map("-2 - a * b - c", self.sequence, self.extent, entry, dtype="i32", hint="claim")

    def claimed(self, base: Value) -> tuple[Value, Value]:
        """Return which entries of a block bring their slot, as 0 and 1, and the slots."""
        b = self.b
        entry, inside, slot = self.block(base)
        row = b.load(self.row_of, self.head, slot, mask=inside, hint="row")
        text = "where(a & (b == c), 1, 0)"
        return b.map(text, inside, row, self.claim(entry), dtype="i32", hint="mine"), slot

    @contextmanager
    def shared(self, part: Value, *carry: Value) -> Iterator:
        """Loop over a program's part of the list."""
        b, s = self.b, self.shape
        low = b.map(f"a * {s.keys}", part, dtype="i32", hint="low")
        with b.loop(low, self.count, *carry, step=s.keys * s.parts, hint="base") as loop:
            yield loop


def _within(b: KernelBuilder, value: Value, extent: Value) -> Value:
    """Return what is kept within [0, extent), whatever was stored."""
    return b.map("max(min(a, b - 1), 0)", value, extent, dtype="i32", hint=value.name)


def look(shape: KeyCache, ahead: bool) -> Operation:
    """Return the kernel that marks rows, has slots claimed, and counts.

    Arguments: B, N, MAXP, L, S, H, page_table [B, MAXP], kv_lengths [B], chosen [B, K, L], counts
    [B, K], row_of [K, S], marks [K, H], counters [5] i32; flat: B, N, E, C, S, H, pages [E],
    row_page, base, kv_lengths, chosen [K, C] and the rest. What an earlier launch left in `chosen`
    and `counts` is a selection's; `S` = N * P.
    """
    entries = _Entries(shape, "guess" if ahead else "look")
    b = entries.b
    marks = b.buffer("marks", "i32", shape.kv_heads, "H")
    counters = b.buffer("counters", "i32", len(COUNTERS))
    entries.enter(b.program_id(0, "kv_head"), b.program_id(1, "sequence"))
    nothing = b.full(0, "i32", shape.keys)
    with entries.shared(b.program_id(2, "part"), nothing, nothing, nothing) as loop:
        entry, inside, slot = entries.block(loop.index)
        row = b.load(entries.row_of, entries.head, slot, mask=inside, hint="row")
        there = b.map("a & (b >= 0)", inside, row, dtype="bool", hint="there")
        missing = b.map("a & (b < 0)", inside, row, dtype="bool", hint="missing")
        row = _within(b, row, entries.held)
        mark = b.load(marks, entries.head, row, mask=there, hint="mark")
        b.store(marks, entries.head, row, b.full(GUESSED if ahead else WANTED, "i32", shape.keys),
                mask=there)  # fmt: skip
        b.store(entries.row_of, entries.head, slot, entries.claim(entry), mask=missing)
        first, second, third = loop.carried
        other = b.map("where(a, 1, 0)", missing if ahead else there, dtype="i32", hint="other")
        text = f"where(a & (b == {BROUGHT}), 1, 0)"
        loop.yields(
            b.map("a + where(b, 1, 0)", first, inside, dtype="i32", hint="all"),
            b.map("a + b", second, other, dtype="i32", hint="some"),
            b.map("a + b", third, b.map(text, there, mark, dtype="i32"), dtype="i32", hint="ahead"),
        )
    found = [b.reduce("sum", value, 0, hint="total") for value in loop.results]
    places = (3, 4) if ahead else (0, 1, 2)
    for place, total in zip(places, found, strict=False):
        b.atomic_add(counters, b.full(place, "i32"), total)
    return b.finish(shape.kv_heads, "B", shape.parts, requires=entries.facts, of="graph.fetch")


def free(shape: KeyCache, ahead: bool) -> Operation:
    """Return the kernel that lists rows that may go, and unmarks all unless it is ahead.

    Arguments: those of `look` up to row_of, then marks [K, H], hand [K] (where to begin), victims
    [K, H], and of each program: spare [K, parts] (how many rows may go), asked [K, parts] (how many
    entries bring a slot).
    """
    entries = _Entries(shape, "spare" if ahead else "free")
    b, held = entries.b, entries.held
    marks, hand = (
        b.buffer("marks", "i32", shape.kv_heads, "H"),
        b.buffer("hand", "i32", shape.kv_heads),
    )
    victims = b.buffer("victims", "i32", shape.kv_heads, "H")
    spare, asked = (b.buffer(n, "i32", shape.kv_heads, shape.parts) for n in ("spare", "asked"))
    head, part = b.program_id(0, "kv_head"), b.program_id(1, "part")
    zero, lane = b.full(0, "i32"), entries.lane
    with b.loop(zero, entries.sequences, zero, hint="sequence") as each:
        entries.enter(head, each.index)
        with entries.shared(part, each.carried[0]) as loop:
            mine, _ = entries.claimed(loop.index)
            loop.yields(b.map("a + b", loop.carried[0], b.reduce("sum", mine, 0), dtype="i32"))
        each.yields(loop.results[0])
    b.store(asked, head, part, each.results[0])
    start = _within(b, b.load(hand, head, hint="start"), held)
    first, last = _run(b, shape, held, part)
    with b.loop(first, last, first, step=shape.keys, hint="base") as loop:
        (listed,) = loop.carried
        step = b.map("a + b", loop.index, lane, dtype="i32", hint="step")
        inside = b.map("a < b", step, held, hint="inside")
        row = b.map(
            "where(a + b >= c, a + b - c, a + b)", start, step, held, dtype="i32", hint="row"
        )
        row = _within(b, row, held)
        mark = b.load(marks, head, row, mask=inside, hint="mark")
        text = "where(a & (b == 0), 1, 0)" if ahead else f"where(a & (b < {WANTED}), 1, 0)"
        goes = b.map(text, inside, mark, dtype="i32", hint="goes")
        place = b.map("a + b - 1", listed, b.scan(goes, 0), dtype="i32", hint="place")
        kept = b.map("(a > 0) & (b >= 0) & (b < c)", goes, place, held, dtype="bool", hint="kept")
        b.store(victims, head, place, row, mask=kept)
        if not ahead:
            b.store(marks, head, row, b.full(0, "i32", shape.keys), mask=inside)
        loop.yields(b.map("a + b", listed, b.reduce("sum", goes, 0), dtype="i32", hint="listed"))
    b.store(spare, head, part, b.map("a - b", loop.results[0], first, dtype="i32"))
    return b.finish(shape.kv_heads, shape.parts, requires=entries.facts, of="graph.fetch")


def _run(b: KernelBuilder, shape: KeyCache, held: Value, part: Value | int) -> tuple[Value, Value]:
    """Return [first, last) of a program's run of rows, counted from the hand; the same run of
    `victims` is its own."""
    whole = shape.keys * shape.parts
    length = f"((a + {whole - 1}) // {whole} * {shape.keys})"
    if isinstance(part, int):
        part = b.full(part, "i32")
    first = b.map(f"min(b * {length}, a)", held, part, dtype="i32", hint="first")
    return first, b.map(f"min((b + 1) * {length}, a)", held, part, dtype="i32", hint="last")


def place(shape: KeyCache, ahead: bool) -> Operation:
    """Return the kernel that gives rows to the slots that are brought.

    Arguments: those of `look` up to row_of, then slot_of, marks [K, H], hand [K], victims [K, H],
    spare, asked [K, parts], fresh_slot, fresh_row [K, H], fresh [K] (how many are brought). All
    programs of a key head store the same hand and count.
    """
    entries = _Entries(shape, "prepare" if ahead else "place")
    b, wide = entries.b, (shape.kv_heads, "H")
    slot_of, marks = b.buffer("slot_of", "i32", *wide), b.buffer("marks", "i32", *wide)
    hand = b.buffer("hand", "i32", shape.kv_heads)
    victims = b.buffer("victims", "i32", *wide)
    spare, asked = (b.buffer(n, "i32", shape.kv_heads, shape.parts) for n in ("spare", "asked"))
    fresh_slot, fresh_row = (b.buffer(n, "i32", *wide) for n in ("fresh_slot", "fresh_row"))
    fresh = b.buffer("fresh", "i32", shape.kv_heads)
    head, part, held = b.program_id(0, "kv_head"), b.program_id(1, "part"), entries.held
    zero = b.full(0, "i32")
    ends, before, every = [zero], zero, zero
    for number in range(shape.parts):
        at = b.full(number, "i32")
        ends.append(b.map("a + b", ends[-1], b.load(spare, head, at), dtype="i32", hint="end"))
        count = b.load(asked, head, at, hint="count")
        before = b.map(f"a + where({number} < b, c, 0)", before, part, count, dtype="i32",
                       hint="before")  # fmt: skip
        every = b.map("a + b", every, count, dtype="i32", hint="every")
    runs = [_run(b, shape, held, number)[0] for number in range(shape.parts)]
    room = b.map("max(min(a, b), 0)", ends[-1], held, dtype="i32", hint="room")

    def victim(at: Value, mask: Value | None = None) -> Value:
        """Return the row that may go as the number `at` of all that programs have listed."""
        there = at
        for end, run in zip(ends[1:-1], runs[1:], strict=True):
            there = b.map("where(a >= b, c + a - b, d)", at, end, run, there, dtype="i32",
                          hint="there")  # fmt: skip
        return _within(b, b.load(victims, head, _within(b, there, held), mask=mask), held)

    with b.loop(zero, entries.sequences, before, hint="sequence") as each:
        entries.enter(head, each.index)
        with entries.shared(part, each.carried[0]) as loop:
            (brought,) = loop.carried
            mine, slot = entries.claimed(loop.index)
            at = b.map("a + b - 1", brought, b.scan(mine, 0), dtype="i32", hint="at")
            taken = b.map(
                "(a > 0) & (b >= 0) & (b < c)", mine, at, room, dtype="bool", hint="taken"
            )
            new = victim(at, taken)
            old = b.load(slot_of, head, new, mask=taken, other=-1, hint="old")
            gone = b.map("a & (b >= 0)", taken, old, dtype="bool", hint="gone")
            none = b.full(-1, "i32", shape.keys)
            b.store(entries.row_of, head, _within(b, old, entries.slots), none, mask=gone)
            b.store(slot_of, head, new, slot, mask=taken)
            b.store(entries.row_of, head, slot, new, mask=taken)
            if ahead:
                b.store(marks, head, new, b.full(BROUGHT, "i32", shape.keys), mask=taken)
            b.store(fresh_slot, head, at, slot, mask=taken)
            b.store(fresh_row, head, at, new, mask=taken)
            total = b.map("a + b", brought, b.reduce("sum", mine, 0), dtype="i32", hint="brought")
            loop.yields(total)
        each.yields(loop.results[0])
    count = b.map("min(a, b)", every, room, dtype="i32", hint="count")
    b.store(fresh, head, count)
    last = victim(b.map("max(a - 1, 0)", count, dtype="i32"))
    kept = b.load(hand, head, hint="kept")
    after = b.map("where(a > 0, where(b + 1 >= c, 0, b + 1), d)", count, last, held, kept,
                  dtype="i32", hint="after")  # fmt: skip
    b.store(hand, head, after)
    return b.finish(shape.kv_heads, shape.parts, requires=entries.facts, of="graph.fetch")


AT_ONCE = 16
"""Rows that a program copies at a time."""


def fetch(shape: KeyCache, parts: int = 1) -> Operation:
    """Return the kernel that copies what is brought from the pools to the cache.

    Arguments: N, S, H, HP = H / P, fresh_slot, fresh_row [K, H], fresh [K], k, v [N, K, P, C],
    held_k, held_v [HP, K, P, C]. `parts` programs share a key head's rows.
    """
    page = shape.page
    b = KernelBuilder(f"keys_fetch_{shape.kv_heads}_{shape.head_dim}_{page}_{shape.kv}_{parts}")
    b.scalar("N")
    slots, held = b.scalar("S"), b.scalar("H")
    b.scalar("HP")
    fresh_slot, fresh_row = (b.buffer(n, "i32", shape.kv_heads, "H")
                             for n in ("fresh_slot", "fresh_row"))  # fmt: skip
    fresh = b.buffer("fresh", "i32", shape.kv_heads)
    row = (shape.kv_heads, page, shape.head_dim)
    sources = [b.buffer(n, shape.kv, "N", *row) for n in "kv"]
    targets = [b.buffer(n, shape.kv, "HP", *row) for n in ("held_k", "held_v")]
    head, lane = b.program_id(0, "kv_head"), b.iota(AT_ONCE)
    channel = b.expand(b.iota(shape.head_dim), 0)
    count = b.map("min(a, b)", b.load(fresh, head, hint="count"), held, dtype="i32", hint="count")
    low = b.map(f"a * {AT_ONCE}", b.program_id(1, "part"), dtype="i32", hint="low")
    with b.loop(low, count, step=AT_ONCE * parts, hint="base") as loop:
        entry = b.map("a + b", loop.index, lane, dtype="i32", hint="entry")
        inside = b.map("a < b", entry, count, hint="inside")
        slot = _within(b, b.load(fresh_slot, head, entry, mask=inside, hint="slot"), slots)
        place = _within(b, b.load(fresh_row, head, entry, mask=inside, hint="row"), held)
        seen = b.expand(inside, 1)

        def at(value: Value) -> tuple[Value, ...]:
            number = b.map(f"a // {page}", value, dtype="i32", hint="page")
            offset = b.map(f"a % {page}", value, dtype="i32", hint="offset")
            return b.expand(number, 1), head, b.expand(offset, 1), channel

        for source, target in zip(sources, targets, strict=True):
            moved = b.load(source, *at(slot), mask=seen, hint="moved")
            b.store(target, *at(place), moved, mask=seen)
        loop.yields()
    facts = ("N >= 1", "H >= 1", f"S == N * {page}", f"H == HP * {page}")
    return b.finish(shape.kv_heads, parts, requires=facts, of="graph.fetch")


def rows(shape: KeyCache) -> Operation:
    """Return the kernel that says where entries stand in the cache.

    Arguments: those of `look` up to row_of, then rows, of the form of `chosen`.
    """
    entries = _Entries(shape, "rows")
    b = entries.b
    target = entries.lists.buffer("rows", "i32", shape.kv_heads)
    entries.enter(b.program_id(0, "kv_head"), b.program_id(1, "sequence"))
    with entries.shared(b.program_id(2, "part")) as loop:
        entry, inside, slot = entries.block(loop.index)
        row = b.load(entries.row_of, entries.head, slot, mask=inside, hint="row")
        b.store(target, *entries.lists.at(entry), _within(b, row, entries.held), mask=inside)
        loop.yields()
    return b.finish(shape.kv_heads, "B", shape.parts, requires=entries.facts, of="graph.fetch")


def forget(shape: KeyCache) -> Operation:
    """Return the kernel that drops the rows of slots that are written anew.

    Arguments: T, S, H, slots [T] (-1: none), row_of [K, S], slot_of [K, H].
    """
    b = KernelBuilder(f"keys_forget_{shape.kv_heads}")
    b.scalar("T")
    slots, held = b.scalar("S"), b.scalar("H")
    written = b.buffer("slots", "i32", "T")
    row_of = b.buffer("row_of", "i32", shape.kv_heads, "S")
    slot_of = b.buffer("slot_of", "i32", shape.kv_heads, "H")
    slot, head = b.load(written, b.program_id(0, "token"), hint="slot"), b.iota(shape.kv_heads)
    named = b.map("a >= 0", slot, hint="named")
    place = _within(b, slot, slots)
    row = b.load(row_of, head, place, mask=named, other=-1, hint="row")
    there = b.map("a >= 0", row, hint="there")
    none = b.full(-1, "i32", shape.kv_heads)
    b.store(slot_of, head, _within(b, row, held), none, mask=there)
    b.store(row_of, head, place, none, mask=b.map("a + 0 * b >= 0", slot, head, dtype="bool"))
    facts = ("T >= 0", "H >= 1", "S >= 1")
    return b.finish("T", requires=facts, of="graph.label_write")
