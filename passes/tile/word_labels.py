"""Labels as words of 32 bits, for GPUs: four channels of a token are multiplied by one instruction.

A layer's labels lie in pages beside its keys, [N, K, W, P] i32: word w of a token holds its codes
of channels 4w to 4w + 3, a byte each; in `i4`, with r channels, the low half of a byte is such a
channel and the high half is channel r/2 more, both as code + 8, and there are W = r/8 words. The
queries of a step are rounded to bytes too, with one scale for the heads that share a key head. So
scores are integers, and they are kept as one of `BINS` steps over all that they can be: a key is
selected for the step that its score is in (`bin_selection`), and counts by step come along.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.attention_calibration import LEVELS
from ...ir.core import Operation, Value
from ...ir.sparse import MOST_PARTS, SHARERS
from ...ir.sparse import SCORE_STEPS as BINS
from .attention import LOG2E
from .builder import KernelBuilder
from .labels import Labels, _rounded
from .score_place import Place

PARTS = "where(B <= 2, 32, where(B <= 8, 16, 8))"
"""Programs that share a row's keys, by how many rows B there are."""

QUERY = 127
"""The largest byte of a query."""


@dataclass(frozen=True)
class WordScores:
    """The static shape: heads H over labels of a format i4 or i8; the middle between `sinks` and
    `recent` tokens is scored; a program looks at `keys` tokens, whole pages, at a time, and
    (`shared_labels`) scores them for `members` rows. `scale` is that of the attention where it must
    be known what a step is worth, and 0 elsewhere."""

    labels: Labels
    heads: int
    sinks: int = 4
    recent: int = 16
    q: str = "bf16"
    keys: int = 2048
    members: int = SHARERS
    scale: float = 0.0

    @property
    def group(self) -> int:
        """How many query heads share a key head, and so a selection."""
        return self.heads // self.labels.kv_heads

    @property
    def bytes(self) -> int:
        """Words of a query head: of its channels, four a word."""
        return self.labels.channels // 4

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        return f"{self.heads}_{self.labels.name}_{self.sinks}_{self.recent}"


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
    steps of it: twice the score plus that most, times the second, the upper half of 64 bits). With
    a scale also worth [B, K] f32: the power of two by which weights of a step more are larger.
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
    worths = b.buffer("worth", "f32", "B", labels.kv_heads) if shape.scale else None
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
    text = f"i32({float(BINS)} * {float(1 << 31)} / f32(max(2 * a + 1, {BINS + 1})))"
    b.store(most, row, head, b.full(0, "i32"), top)
    b.store(most, row, head, b.full(1, "i32"), b.map(text, top, dtype="i32", hint="factor"))
    if worths is not None:
        factor = shape.scale * LOG2E / QUERY / BINS
        text = f"a * f32(max(2 * b + 1, {BINS + 1})) * {factor!r}"
        b.store(worths, row, head, b.map(text, largest, top, dtype="f32", hint="worth"))
    return b.finish(labels.kv_heads, "B", requires=("B >= 0", "B <= T"), of="graph.select")


def word_scores(shape: WordScores) -> Operation:
    """Return the kernel of the steps in which tokens' scores are, and of counts of each step.

    Arguments: B, N, E, C = CP * P, CP, query, bias, reach (see `query_words`), pages [E], row_page,
    base [B] (where a row's pages and its tokens begin; base is a whole page), kv_lengths [B] (0 for
    a row that selects nothing), span, own [B] (the pages by which a row is cut into parts, at least
    those that it has; and its first that `shared_labels` has not scored), labels [N, K, W, P], bins
    [CP, K, P] u8, tally [B, K, 32, 256] i32: of each part of a row the tokens of the middle in each
    step.
    """
    return _WordScores(shape).kernel()


class Scoring:
    """What kernels of scores share: their buffers, queries as values, and steps of scores."""

    def __init__(self, name: str, shape: WordScores, *extents: str) -> None:
        self.shape, labels, group = shape, shape.labels, shape.group
        b = self.b = KernelBuilder(f"{name}_{shape.name}_{shape.keys}")
        self.count, *_ = (b.scalar(extent) for extent in ("B", "N", "E", "C", "CP", *extents))
        size = group * shape.bytes
        self.query = b.buffer("query", "i32", "B", labels.kv_heads, size)
        self.bias = b.buffer("bias", "i32", "B", labels.kv_heads, group)
        self.most = b.buffer("reach", "i32", "B", labels.kv_heads, 2)
        self.place = Place(b, True, labels.page)
        self.lengths, self.spans = (b.buffer(n, "i32", "B") for n in ("kv_lengths", "span"))
        self.words = label_words(labels)
        self.pool = b.buffer("labels", "i32", "N", labels.kv_heads, self.words, labels.page)
        self.bins = b.buffer("bins", "u8", "CP", labels.kv_heads, labels.page)
        self.tally = b.buffer("tally", "i32", "B", labels.kv_heads, MOST_PARTS, BINS)

    @property
    def facts(self) -> tuple[str, ...]:
        """What a caller keeps."""
        page = self.shape.labels.page
        return ("B >= 0", "N >= 1", f"C == CP * {page}", *self.place.facts)

    def enter(self) -> tuple[Value, Value, Value]:
        """Return the program's key head, its place on the second axis, and its part."""
        axes = enumerate(("kv_head", "row", "part"))
        self.head, second, part = (self.b.program_id(axis, name) for axis, name in axes)
        lane, page = self.b.iota(self.shape.keys), self.shape.labels.page
        self.ahead = self.b.map(f"a // {page}", lane, dtype="i32", hint="ahead")
        self.offset = self.b.map(f"a % {page}", lane, dtype="i32", hint="offset")
        return self.head, second, part

    def middle(self, row: Value) -> Middle:
        """Return the middle of a row."""
        b, s = self.b, self.shape
        length = b.load(self.lengths, row, hint="length")
        span = b.load(self.spans, row, hint="span")
        return Middle(b, self.count, s.sinks, s.recent, s.labels.page, length, span)

    def codes(self, number: Value, there: Value) -> list[tuple[Value, int]]:
        """Return the codes of some tokens, four to a value, each with its word of a query."""
        b, found = self.b, []
        entry = b.map("a + b", self.place.entry, number, dtype="i32", hint="entry")
        page = b.load(self.place.pages, entry, mask=there, hint="page_id")  # type: ignore[arg-type]
        for word in range(self.words):
            codes = b.load(self.pool, page, self.head, b.full(word, "i32"), self.offset, mask=there,
                           hint="codes")  # fmt: skip
            halves = [(codes, word)]
            if self.shape.labels.format == "i4":
                low = b.map(f"a & {0x0F0F0F0F}", codes, dtype="i32", hint="low")
                high = b.map(f"(a >> 4) & {0x0F0F0F0F}", codes, dtype="i32", hint="high")
                halves = [(low, word), (high, word + self.words)]
            found += halves
        return found

    def query_of(self, row: Value) -> Query:
        """Return a row's query, one value a word: all tokens are multiplied by it."""
        b, s = self.b, self.shape

        def one(buffer: Value, at: int) -> Value:
            return b.load(buffer, row, self.head, b.full(at, "i32"), hint=buffer.name)

        each = [[one(self.query, member * s.bytes + word) for word in range(s.bytes)]
                for member in range(s.group)]  # fmt: skip
        shifts = [one(self.bias, member) for member in range(s.group)]
        return Query(each, shifts, one(self.most, 0), one(self.most, 1))

    def step(self, query: Query, codes: list[tuple[Value, int]]) -> Value:
        """Return the steps of the scores of some tokens: the largest over the group's heads."""
        b, best = self.b, None
        zero = b.full(0, "i32", self.shape.keys)
        totals = [b.map("a - b", zero, shift, dtype="i32", hint="total") for shift in query.shifts]
        for half, place in codes:
            totals = [b.map("dot4(a, b, c)", half, each[place], total, dtype="i32")
                      for each, total in zip(query.each, totals, strict=True)]  # fmt: skip
        for score in totals:
            best = score if best is None else b.map("max(a, b)", best, score, dtype="i32")
        assert best is not None
        text = f"min(i32(umulhi(max(a + b, 0) * 2, c)), {BINS - 1})"
        return b.map(text, best, query.top, query.factor, dtype="i32", hint="step")

    def count_steps(self, step: Value, inside: Value, counts: Value) -> Value:
        """Return counts with the steps of the tokens that are inside."""
        text = "where(b, a, -1)"
        counted = self.b.map(text, step, inside, dtype="i32", hint="counted")
        return self.b.histogram(counted, counts)


@dataclass(frozen=True)
class Query:
    """A row's query for a key head, as values: words of each head, what is taken from its products,
    and what makes steps of scores."""

    each: list[list[Value]]
    shifts: list[Value]
    top: Value
    factor: Value


class _WordScores(Scoring):
    def __init__(self, shape: WordScores) -> None:
        super().__init__("word_scores", shape)
        self.own = self.b.buffer("own", "i32", "B")

    def kernel(self) -> Operation:
        b, s, page = self.b, self.shape, self.shape.labels.page
        head, row, part = self.enter()
        self.place.enter(head, row)
        span = self.middle(row)
        first, high = span.part(part)
        own = b.load(self.own, row, hint="own")
        low = b.map("max(a, b)", first, own, dtype="i32", hint="low")
        query = self.query_of(row)
        begun = b.map("a < b", first, b.map("min(a, b)", own, high, dtype="i32"), hint="begun")
        bin = b.iota(BINS)
        tally = b.load(self.tally, row, head, part, bin, mask=begun, hint="counts")
        with b.loop(low, high, tally, step=s.keys // page, hint="page") as loop:
            number = b.map("a + b", loop.index, self.ahead, dtype="i32", hint="number")
            there = b.map("a < b", number, high, hint="there")
            step = self.step(query, self.codes(number, there))
            at = b.map(f"a // {page} + b", self.place.start, number, dtype="i32", hint="at")
            b.store(self.bins, at, head, self.offset, step, mask=there)
            inside = span.inside(number, self.offset, there)
            loop.yields(self.count_steps(step, inside, loop.carried[0]))
        b.store(self.tally, row, head, part, bin, loop.results[0])
        facts = (*self.facts, "0 <= own[*]")
        return b.finish(s.labels.kv_heads, "B", PARTS, requires=facts, of="graph.select")


def parts_of(b: KernelBuilder, rows: Value) -> Value:
    """Return how many programs share a row's keys, for so many rows: the grid's `PARTS`."""
    return b.map(PARTS.replace("B", "a"), rows, dtype="i32", hint="parts")


class Middle:
    """The tokens of a row between its forced ends, and the pages of them that a part has."""

    def __init__(
        self, b: KernelBuilder, rows: Value, sinks: int, recent: int, page: int, length: Value,
        span: Value | None = None,
    ) -> None:  # fmt: skip
        self.b, self.rows, self.page, self.span = b, rows, page, span
        self.first = b.map(f"min(a, {sinks})", length, dtype="i32", hint="first")
        self.last = b.map(f"max(a - {recent}, b)", length, self.first, dtype="i32", hint="last")

    def part(self, part: Value) -> tuple[Value, Value]:
        """Return the pages [low, high) of a part: of pages that have a token of the middle. Rows of
        one `span` are cut at the same pages."""
        b, page = self.b, self.page
        pages = b.map(f"(a + {page - 1}) // {page}", self.last, dtype="i32", hint="pages")
        parts = parts_of(b, self.rows)
        assert self.span is not None
        text = "(max(a, c) + b - 1) // b"
        each = b.map(text, pages, parts, self.span, dtype="i32", hint="each")
        low = b.map("min(a * b, c)", part, each, pages, dtype="i32", hint="low")
        return low, b.map("min(a + b, c)", low, each, pages, dtype="i32", hint="high")

    def inside(self, number: Value, offset: Value, there: Value) -> Value:
        """Return which of some tokens, by page and place in it, are of the middle."""
        b = self.b
        unit = b.map(f"a * {self.page} + b", number, offset, dtype="i32", hint="unit")
        text = "a & (b >= c) & (b < d)"
        return b.map(text, there, unit, self.first, self.last, dtype="bool", hint="inside")
