"""Labels as words of 32 bits, for GPUs: four channels of a token are multiplied by one instruction.

A layer's labels lie in pages beside its keys, [N, K, W, P] i32: word w of a token holds its codes
of channels 4w to 4w + 3, a byte each; in `i4`, with r channels, the low half of a byte is such a
channel and the high half is channel r/2 more, both as code + 8, and there are W = r/8 words. The
queries of a step are rounded to bytes too, with one scale for the heads that share a key head. So
scores are integers, and they are kept as one of 255 steps over all that they can be, from 1 up; 0
is the step of a forced token. A key is selected for the step that its score is in
(`bin_selection`); how many have each sixteenth of the steps is counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.attention_calibration import LEVELS
from ...ir.core import Operation, Value
from ...ir.sparse import MOST_PARTS, SHARERS
from ...ir.sparse import SCORE_STEPS as BINS
from ...ir.tile import extents_of
from .attention import LOG2E
from .builder import KernelBuilder
from .labels import Labels, _rounded
from .packed_counts import KINDS, ROUNDS, add_counts, no_counts, sum_counts
from .row_parts import PARTS, Middle, extent
from .score_place import Place
from .step_words import WIDTH, pack
from .tail_mass import LaneMass

QUERY = 127
"""The largest byte of a query."""

STEPS = BINS - 1
"""Steps that a score can have; step 0 is of tokens that are not chosen among."""


@dataclass(frozen=True)
class WordScores:
    """The static shape: heads H over labels of a format i4 or i8; the middle between `sinks` and
    `recent` tokens is scored; a program looks at `keys` tokens, whole pages, at a time, and
    (`shared_labels`) scores them for `members` rows. `scale` is that of the attention where it must
    be known what scores weigh, and 0 elsewhere; `tail`: what the middle weighs is summed up, of
    each query head and part."""

    labels: Labels
    heads: int
    sinks: int = 4
    recent: int = 16
    q: str = "bf16"
    keys: int = 1024
    members: int = SHARERS
    scale: float = 0.0
    tail: bool = False

    @property
    def group(self) -> int:
        """How many query heads share a key head, and so a selection."""
        return self.heads // self.labels.kv_heads

    @property
    def rows(self) -> int:
        """How many pages a program looks at at a time."""
        return max(1, self.keys // self.labels.page)

    @property
    def most(self) -> int:
        """The most tokens that a program may score: more could not be counted."""
        return ROUNDS * self.rows * self.labels.page

    @property
    def bytes(self) -> int:
        """Words of a query head: of its channels, four a word."""
        return self.labels.channels // 4

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        tail = "_tail" if self.tail else ""
        return f"{self.heads}_{self.labels.name}_{self.sinks}_{self.recent}{tail}"


def label_words(shape: Labels) -> int:
    """Return W, the words of a token's label."""
    return shape.channels // (8 if shape.format == "i4" else 4)


def word_write(shape: Labels) -> Operation:
    """Return the kernel that makes labels of the keys that a step wrote.

    Arguments: T, N, slots [T] (-1: none), k [N, K, P, C] in calibrated order, mean, level [K, r]
    f32, labels [N, K, W, P] i32.
    """
    words, packed = label_words(shape), shape.format == "i4"
    b = KernelBuilder(f"word_write_{shape.name}_{shape.kv}")
    b.scalar("T")
    b.scalar("N")
    slots = b.buffer("slots", "i32", "T")
    k = b.buffer("k", shape.kv, "N", shape.kv_heads, shape.page, shape.head_dim)
    tables = [b.buffer(n, "f32", shape.kv_heads, shape.channels) for n in ("mean", "level")]
    labels = b.buffer("labels", "i32", "N", shape.kv_heads, words, shape.page)
    slot = b.load(slots, b.program_id(0, "token"), hint="slot")
    written = b.map("a >= 0", slot, hint="written")
    page = b.map(f"max(a, 0) // {shape.page}", slot, hint="page")
    offset = b.map(f"max(a, 0) % {shape.page}", slot, hint="offset")
    head, word = b.expand(b.iota(shape.kv_heads), 1), b.expand(b.iota(words), 0)

    def code(first: int) -> Value:
        channel = b.map(f"a * 4 + {first}", word, dtype="i32", hint="channel")
        key = b.load(k, page, head, offset, channel, mask=written, dtype="f32", hint="key")
        mean, level = (b.load(table, head, channel) for table in tables)
        x = b.map("(a - b) / c", key, mean, level, hint="x")
        return b.map("i32(a)", _rounded(b, x, LEVELS[shape.format]), dtype="i32", hint="code")

    total = b.full(0, "i32", shape.kv_heads, words)
    for byte in range(4):
        value = code(byte)
        if packed:
            high = code(byte + shape.channels // 2)
            value = b.map("(a + 8) | ((b + 8) << 4)", value, high, dtype="i32", hint="both")
        text = f"a | ((b & 255) << {8 * byte})"
        total = b.map(text, total, value, dtype="i32", hint="word")
    b.store(labels, page, head, word, offset, total, mask=written)
    facts = ("T >= 0", "N >= 0", f"-1 <= slots[*] < N * {shape.page}")
    return b.finish("T", requires=facts, of="graph.label_write")


def query_words(shape: WordScores) -> Operation:
    """Return the kernel that rounds a step's queries to bytes; a program takes a group of heads.

    Arguments: T, B, q [T, H * C] in calibrated order, level [K, r], query [B, K, g * r / 4] i32
    (a head's words after another's), bias [B, K, g] i32 (what is taken from a head's products, for
    codes that are 8 too large), reach [B, K, 2] i32 (the most that a score can be, and what makes
    steps of it: the score plus that most, times the second without a sign, the upper half of 64
    bits). With a scale also worth and score_unit [B, K] f32: the powers of two by which weights of
    a step more, and of a score of one more, are larger.
    """
    labels, group, count = shape.labels, shape.group, shape.bytes
    worth = "_worth" if shape.scale else ""
    b = KernelBuilder(f"query_words_{shape.name}_{shape.q}{worth}")
    b.scalar("T")
    b.scalar("B")
    q = b.buffer("q", shape.q, "T", shape.heads * labels.head_dim)
    level = b.buffer("level", "f32", labels.kv_heads, labels.channels)
    query = b.buffer("query", "i32", "B", labels.kv_heads, group * count)
    bias = b.buffer("bias", "i32", "B", labels.kv_heads, group)
    most = b.buffer("reach", "i32", "B", labels.kv_heads, 2)
    names = ("worth", "score_unit") if shape.scale else ()
    worths = [b.buffer(name, "f32", "B", labels.kv_heads) for name in names]
    head, row = b.program_id(0, "kv_head"), b.program_id(1, "row")
    member, word = b.expand(b.iota(group), 1), b.expand(b.iota(count), 0)
    parts, largest = [], b.full(1e-30, "f32")
    for byte in range(4):
        channel = b.map(f"a * 4 + {byte}", word, dtype="i32", hint="channel")
        text = f"(a * {group} + b) * {labels.head_dim} + c"
        column = b.map(text, head, member, channel, dtype="i32", hint="column")
        x = b.map("a * b", b.load(q, row, column, dtype="f32"), b.load(level, head, channel))
        size = b.reduce("max", b.reduce("max", b.map("abs(a)", x), 1), 0)
        largest = b.map("max(a, b)", largest, size, hint="largest")
        parts.append(x)
    words, sums, sizes = b.full(0, "i32", group, count), [], []
    for byte, x in enumerate(parts):
        text = f"i32(floor(a * ({QUERY}.0 / b) + 0.5))"
        value = b.map(text, x, largest, dtype="i32", hint="byte")
        sums.append(b.reduce("sum", value, 1))
        sizes.append(b.reduce("sum", b.map("abs(a)", value, dtype="i32"), 1))
        text = f"a | ((b & 255) << {8 * byte})"
        words = b.map(text, words, value, dtype="i32", hint="words")
    place = b.map(f"a * {count} + b", member, word, dtype="i32", hint="place")
    b.store(query, row, head, place, words)
    shift = 8 if labels.format == "i4" else 0
    b.store(bias, row, head, b.iota(group),
            b.map(f"(a + b + c + d) * {shift}", *sums, dtype="i32", hint="bias"))  # fmt: skip
    each = b.map("a + b + c + d", *sizes, dtype="i32", hint="size")
    top = b.map(f"a * {8 if labels.format == 'i4' else 127}", b.reduce("max", each, 0),
                dtype="i32", hint="top")  # fmt: skip
    text = f"i32({float(STEPS)} * {float(1 << 31)} / f32(max(2 * a + 1, {STEPS + 1}))) * 2"
    b.store(most, row, head, b.full(0, "i32"), top)
    b.store(most, row, head, b.full(1, "i32"), b.map(text, top, dtype="i32", hint="factor"))
    if worths:
        unit = b.map(f"a * {shape.scale * LOG2E / QUERY!r}", largest, hint="unit")
        text = f"a * f32(max(2 * b + 1, {STEPS + 1})) * {1 / STEPS!r}"
        b.store(worths[0], row, head, b.map(text, unit, top, dtype="f32", hint="worth"))
        b.store(worths[1], row, head, unit)
    return b.finish(labels.kv_heads, "B", requires=("B >= 0", "B <= T"), of="graph.select")


def word_scores(shape: WordScores) -> Operation:
    """Return the kernel of the steps in which tokens' scores are, and of counts of sixteenths.

    Arguments: B, N, E, C = CP * P, CP, query, bias, reach (see `query_words`), pages [E], row_page,
    base [B] (where a row's pages and its tokens begin; base is a whole page), kv_lengths [B] (0 for
    a row that selects nothing), span, own [B] (the pages by which a row is cut into parts, at least
    those that it has; and its first that `shared_labels` has not scored), labels [N, K, W, P], bins
    [CP, K, P / 4] i32 (see `step_words`), coarse [B, K, 32, 16] i32: of each part of a row the
    tokens of the middle in each sixteenth of the steps.
    """
    return _WordScores(shape).kernel()


class Scoring:
    """What kernels of scores share: their buffers, and steps of scores."""

    def __init__(self, name: str, shape: WordScores, *extents: str) -> None:
        self.shape, labels, group = shape, shape.labels, shape.group
        b = self.b = KernelBuilder(f"{name}_{shape.name}_{shape.keys}")
        self.count, self.pool_pages, *_ = (
            b.scalar(extent) for extent in ("B", "N", "E", "C", "CP", *extents)
        )
        size = group * shape.bytes
        self.query = b.buffer("query", "i32", "B", labels.kv_heads, size)
        self.bias = b.buffer("bias", "i32", "B", labels.kv_heads, group)
        self.most = b.buffer("reach", "i32", "B", labels.kv_heads, 2)
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
        super().__init__("word_scores", shape)
        self.own = self.b.buffer("own", "i32", "B")
        kv_heads = shape.labels.kv_heads
        self.mass = LaneMass(self.b, shape.group, kv_heads) if shape.tail else None

    def kernel(self) -> Operation:
        b, s = self.b, self.shape
        head, row, part = self.enter()
        self.ahead, self.offset = b.expand(b.iota(s.rows), 1), b.expand(b.iota(s.labels.page), 0)
        self.place.enter(head, row)
        self.span = self.middle(row)
        first, self.high = self.span.part(part)
        own = b.load(self.own, row, hint="own")
        low = b.map("max(a, b)", first, own, dtype="i32", hint="low")
        self.row_query = self._query(row)
        text = "a < b"
        begun = b.map(text, first, b.map("min(a, b)", own, self.high, dtype="i32"), hint="begun")
        kind = b.iota(KINDS)
        counted = b.load(self.coarse, row, head, part, kind, mask=begun, hint="coarse")
        mass = ()
        if self.mass:
            self.mass.enter(row, head)
            mass = self.mass.start(s.rows, s.labels.page)
        start = (
            *no_counts(b, s.rows, s.labels.page),
            *self._ahead(low, self._pages(low, 0)),
            *mass,
        )
        with b.loop(low, self.high, *start, step=s.rows, hint="page") as loop:
            loop.yields(*self._round(loop.index, loop.carried))
        more = sum_counts(b, loop.results[:4])
        more = b.map("a + b", counted, more, dtype="i32", hint="coarse")
        b.store(self.coarse, row, head, part, kind, more)
        if self.mass:
            self.mass.store(loop.results[5 + self.words :], row, head, part)
        facts = (*self.facts, "0 <= own[*]")
        grid = (s.labels.kv_heads, "B", extent(PARTS, s.labels.kv_heads))
        return b.finish(*grid, requires=facts, of="graph.select")

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
                        hint="codes") for word in range(self.words)]  # fmt: skip
        return self._pages(index, 1), *words

    def _query(self, row: Value) -> _Query:
        """Return a row's query, one value a word: all tokens are multiplied by it."""
        b, s = self.b, self.shape

        def one(buffer: Value, at: int) -> Value:
            return b.load(buffer, row, self.head, b.full(at, "i32"), hint=buffer.name)

        each = [[one(self.query, member * s.bytes + word) for word in range(s.bytes)]
                for member in range(s.group)]  # fmt: skip
        shifts = [one(self.bias, member) for member in range(s.group)]
        return _Query(each, shifts, one(self.most, 0), one(self.most, 1))

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
