"""Labels as words of 32 bits, for GPUs: four channels of a token are multiplied by one instruction.

A layer's labels lie in pages beside its keys, [N, K, W, P] i32: word w of a token holds its codes
of channels 4w to 4w + 3, a byte each; in `i4`, with r channels, the low half of a byte is such a
channel and the high half is channel r/2 more, both as code + 8, and there are W = r/8 words. The
queries of a step are rounded to bytes too, with one scale for the heads that share a key head
(`query_words`). So
scores are integers, and they are kept as one of 255 steps over all that they can be, from 1 up; 0
is the step of a forced token. A key is selected for the step that its score is in
(`bin_selection`); how many have each sixteenth of the steps `word_scores` counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.sparse.calibration import LEVELS
from ....ir.sparse.policy import MOST_SCORED, SHARERS
from ....ir.sparse.policy import SCORE_STEPS as BINS
from ..builder import KernelBuilder
from .labels import Labels, _rounded
from .packed_counts import ROUNDS
from .row_parts import LEAST_PARTS

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
    each query head and part. `pairs`: whether the kernel is for few or many pairs of a row and a
    key head, and has no programs where there are others."""

    labels: Labels
    heads: int
    sinks: int = 4
    recent: int = 16
    q: str = "bf16"
    keys: int = 1024
    members: int = SHARERS
    scale: float = 0.0
    tail: bool = False
    pairs: str = ""

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
        """Pages that are counted before the counts are summed up: of more a byte may be full."""
        return ROUNDS * self.rows

    @property
    def whole(self) -> bool:
        """Whether the counts of a part need no sum before its end, however long a context is."""
        least = LEAST_PARTS[self.pairs] * self.most * self.labels.page
        return least >= MOST_SCORED

    @property
    def bytes(self) -> int:
        """Words of a query head: of its channels, four a word."""
        return self.labels.channels // 4

    @property
    def name(self) -> str:
        """A name that tells the shape."""
        tail = "_tail" * self.tail + f"_{self.pairs}" * bool(self.pairs)
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
