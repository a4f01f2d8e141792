"""Scores of tokens by labels in words, on GPUs: a row at a time.

What `word_labels` lays out is read here page after page: the page ids and the labels of a round are
loaded while the one before is scored, those of the first while the queries are rounded to bytes
(`query_words`). Labels are read once, and leave the caches first; what is written, and soon read
again, stays. Scores are left as steps, and counted by sixteenths of them
(`packed_counts`), for `step_counts` and `bin_selection`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.dialects.tile import extents_of
from ....ir.sparse.policy import MOST_PARTS
from ..builder import KernelBuilder
from .packed_counts import KINDS, add_counts, no_counts, sum_counts
from .query_words import Rounding
from .row_parts import PARTS, Middle, extent
from .score_place import Place
from .step_words import WIDTH, pack
from .tail_mass import LaneMass
from .word_labels import STEPS, WordScores, label_words


def word_scores(shape: WordScores) -> Operation:
    """Return the kernel of the steps in which tokens' scores are, and of counts of sixteenths.

    Arguments: B, N, E, C = CP * P, CP, then those of `query_words.Rounding`, pages [E], row_page,
    base [B] (where a row's pages and its tokens begin; base is a whole page), kv_lengths [B] (0 for
    a row that selects nothing), span, own [B] (the pages by which a row is cut into parts, at least
    those that it has; and its first that `shared_labels` has not scored), labels [N, K, W, P], bins
    [CP, K, P / 4] i32 (see `step_words`), coarse [B, K, 32, 16] i32: of each part of a row the
    tokens of the middle in each sixteenth of the steps.
    """
    return _WordScores(shape).kernel()


class Scoring:
    """What kernels of scores share: their buffers, and steps of scores. Queries are those that
    others have rounded, or it `rounds` them."""

    def __init__(self, name: str, shape: WordScores, *extents: str, rounds: bool = False) -> None:
        self.shape, labels = shape, shape.labels
        b = self.b = KernelBuilder(f"{name}_{shape.name}_{shape.keys}")
        self.count, self.pool_pages, *_ = (
            b.scalar(extent) for extent in ("B", "N", "E", "C", "CP", *extents)
        )
        self.rounded = Rounding(b, shape, asks=rounds)
        self.place = Place(b, True, labels.page)
        self.lengths, self.spans = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "span"))
        self.words = label_words(labels)
        self.pool = b.buffer("labels", "i32", "N", labels.kv_heads, self.words, labels.page)
        self.bins = b.buffer("bins", "i32", "CP", labels.kv_heads, labels.page // WIDTH)
        self.coarse = b.buffer("coarse", "i32", "B", labels.kv_heads, MOST_PARTS, KINDS)

    @property
    def facts(self) -> tuple[str, ...]:
        """What a caller keeps."""
        page = self.shape.labels.page
        return ("B >= 0", "N >= 1", f"C == CP * {page}", *self.place.facts)

    def enter(self) -> tuple[Value, Value, Value]:
        """Return the program's key head, its place on the second axis, and its part."""
        axes = enumerate(("kv_head", "row", "part"))
        self.head, second, part = (self.b.program_id(axis, name) for axis, name in axes)
        return self.head, second, part

    def middle(self, row: Value) -> Middle:
        """Return the middle of a row."""
        b, s = self.b, self.shape
        length = b.load(self.lengths, row, hint="length")
        span = b.load(self.spans, row, hint="span")
        return Middle(b, self.count, s.labels.kv_heads, s.sinks, s.recent, s.labels.page, length,
                      span)  # fmt: skip

    def page(self, number: Value, there: Value) -> Value:
        """Return some pages of the row, by their numbers."""
        entry = self.b.map("a + b", self.place.entry, number, dtype="i32", hint="entry")
        assert self.place.pages is not None
        return self.b.load(self.place.pages, entry, mask=there, hint="page_id")

    def step(self, score: Value, top: Value, factor: Value) -> Value:
        """Return the steps of scores, 1 .. 255."""
        text = f"1 + min(i32(umulhi(max(a + b, 0), c)), {STEPS - 1})"
        return self.b.map(text, score, top, factor, dtype="i32", hint="step")


class _WordScores(Scoring):
    def __init__(self, shape: WordScores) -> None:
        worth = "_worth" if shape.scale and not shape.tail else ""
        super().__init__(f"word_scores_{shape.q}{worth}", shape, rounds=True)
        self.own = self.b.buffer("own", "i32", "B")
        kv_heads = shape.labels.kv_heads
        self.mass = LaneMass(self.b, shape.group, kv_heads) if shape.tail else None

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, row, part = self.enter()
        self.rounded.ask(head, row)
        self.ahead, self.offset = b.expand(b.iota(s.rows), 1), b.expand(b.iota(s.labels.page), 0)
        self.place.enter(head, row)
        self.span = self.middle(row)
        first, self.high = self.span.part(part)
        own = b.load(self.own, row, hint="own")
        low = b.map("max(a, b)", first, own, dtype="i32", hint="low")
        labels = self._ahead(low, self._pages(low, 0))  # on their way while queries are rounded
        self.row_query, unit = self._query(row)
        text = "a < b"
        begun = b.map(text, first, b.map("min(a, b)", own, self.high, dtype="i32"), hint="begun")
        kind = b.iota(KINDS)
        counted = b.load(self.coarse, row, head, part, kind, mask=begun, hint="coarse")
        mass = ()
        if self.mass:
            assert unit is not None, "what scores weigh has a scale"
            mass = self.mass.start(unit, s.rows, s.labels.page)
        state = counted, *labels, *mass
        if s.whole:
            state = self._scored(low, self.high, *state)
        else:
            with b.loop(low, self.high, *state, step=s.most, hint="first") as chunk:
                text = f"min(a + {s.most}, b)"
                end = b.map(text, chunk.index, self.high, dtype="i32", hint="end")
                chunk.yields(*self._scored(chunk.index, end, *chunk.carried))
            state = tuple(chunk.results)
        b.store(self.coarse, row, head, part, kind, state[0])
        if self.mass:
            self.mass.store(list(state[2 + self.words :]), row, head, part)
        facts = (*self.facts, *self.rounded.facts, "0 <= own[*]")
        grid = (s.labels.kv_heads, "B", extent(PARTS, s.labels.kv_heads, s.pairs))
        place = self.place
        given = (place.pages, place.first, place.base, self.lengths, self.spans, self.own)
        return b.finish(*grid, requires=facts, of="graph.select",
                        given=(self.rounded.level, *(each for each in given if each)))  # fmt: skip

    def _scored(self, low: Value, high: Value, counted: Value, *state: Value) -> tuple[Value, ...]:
        """Score the pages [low, high), so few that a byte can count them; return the counts of all
        so far, and what goes on."""
        b, s = self.b, self.shape
        start = *no_counts(b, s.rows, s.labels.page), *state
        with b.loop(low, high, *start, step=s.rows, hint="page") as loop:
            loop.yields(*self._round(loop.index, loop.carried))
        more = sum_counts(b, loop.results[:4])
        more = b.map("a + b", counted, more, dtype="i32", hint="coarse")
        return more, *loop.results[4:]

    def _round(self, index: Value, state: list[Value]) -> tuple[Value, ...]:
        """Score the pages from `index` on; the state has counts, the page ids of the next round,
        the labels of this one, and what the middle weighs."""
        b, page, known = self.b, self.shape.labels.page, 5 + self.words
        after = b.map(f"a + {self.shape.rows}", index, dtype="i32", hint="after")
        following = self._ahead(after, state[4])
        number = b.map("a + b", index, self.ahead, dtype="i32", hint="number")
        there = b.map("a < b", number, self.high, hint="there")
        query = self.row_query
        totals = self._totals(state[5:known])
        best = None
        for total, shift in zip(totals, query.shifts, strict=True):
            text = "a - b" if best is None else "max(a - b, c)"
            best = b.map(text, total, shift, *([best] if best else []), dtype="i32", hint="best")
        assert best is not None
        step = self._inside(index, self.step(best, query.top, query.factor))
        at = b.map(f"a // {page} + b", self.place.start, number, dtype="i32", hint="at")
        word = b.expand(b.iota(page // WIDTH), 0)
        b.store(self.bins, at, self.head, word, pack(b, step), mask=there)
        kinds = b.map("a >> 4", step, dtype="i32", hint="kind")
        more = ()
        if self.mass:
            scores = [
                b.map("a - b", *pair, dtype="i32")
                for pair in zip(totals, query.shifts, strict=True)
            ]
            inside = self.span.inside(number, self.offset, self.high)
            more = self.mass.add(state[known:], scores, best, inside)
        return *add_counts(b, state[:4], kinds), *following, *more

    def _inside(self, index: Value, step: Value) -> Value:
        """Return the steps, and 0 for tokens outside of the middle; few rounds have such ones."""
        b, s = self.b, self.shape
        text = f"where((a == 0) | (a + {s.rows} > min(b // {s.labels.page}, c)), 1, 0)"
        ends = b.map(text, index, self.span.last, self.high, dtype="i32", hint="ends")
        with b.loop(b.full(0, "i32"), ends, step, hint="once") as once:
            number = b.map("a + b", index, self.ahead, dtype="i32", hint="number")
            inside = self.span.inside(number, self.offset, self.high)
            once.yields(b.map("where(b, a, 0)", once.carried[0], inside, dtype="i32", hint="step"))
        return once.results[0]

    def _pages(self, index: Value, rounds: int) -> Value:
        """Return the ids of the pages of a round that comes so many rounds after `index`."""
        b, ahead = self.b, rounds * self.shape.rows
        number = b.map(f"a + b + {ahead}", index, self.ahead, dtype="i32", hint="number")
        return self.page(number, b.map("a < b", number, self.high, hint="there"))

    def _ahead(self, index: Value, page: Value) -> tuple[Value, ...]:
        """Return the page ids of the round after that of `index`, and the labels of that round,
        whose pages are known: none of these loads waits for another."""
        b = self.b
        page = b.map("max(min(a, b - 1), 0)", page, self.pool_pages, dtype="i32", hint="page_id")
        number = b.map("a + b", index, self.ahead, dtype="i32", hint="number")
        there = b.map("a < b", number, self.high, hint="there")
        words = [b.load(self.pool, page, self.head, b.full(word, "i32"), self.offset, mask=there,
                        hint="codes", stream=True) for word in range(self.words)]  # fmt: skip
        return self._pages(index, 1), *words

    def _query(self, row: Value) -> tuple[_Query, Value | None]:
        """Round a row's query; return it, one value a word, as all tokens are multiplied by it, and
        what a score of one more weighs."""
        b, s, rounded = self.b, self.shape, self.rounded
        top, factor, unit = rounded.keep()

        def one(buffer: Value, at: int) -> Value:
            return b.load(buffer, row, self.head, b.full(at, "i32"), hint=buffer.name)

        each = [[one(rounded.query, member * s.bytes + word) for word in range(s.bytes)]
                for member in range(s.group)]  # fmt: skip
        shifts = [one(rounded.bias, member) for member in range(s.group)]
        return _Query(each, shifts, top, factor), unit

    def _totals(self, codes: list[Value]) -> list[Value]:
        """Return the products of some tokens with each head of the group."""
        b, query = self.b, self.row_query
        zero = b.full(0, "i32", *extents_of(codes[0].type))
        totals = [zero for _ in query.shifts]
        for half, place in self._halves(codes):
            totals = [b.map("dot4(a, b, c)", half, each[place], total, dtype="i32")
                      for each, total in zip(query.each, totals, strict=True)]  # fmt: skip
        return totals

    def _halves(self, codes: list[Value]) -> list[tuple[Value, int]]:
        """Return four codes to a value, each with its word of a query."""
        b, found = self.b, []
        for word, both in enumerate(codes):
            halves = [(both, word)]
            if self.shape.labels.format == "i4":
                low = b.map(f"a & {0x0F0F0F0F}", both, dtype="i32", hint="low")
                high = b.map(f"(a >> 4) & {0x0F0F0F0F}", both, dtype="i32", hint="high")
                halves = [(low, word), (high, word + self.words)]
            found += halves
        return found


@dataclass(frozen=True)
class _Query:
    """A row's query for a key head, as values: words of each head, what is taken from its products,
    and what makes steps of scores."""

    each: list[list[Value]]
    shifts: list[Value]
    top: Value
    factor: Value
