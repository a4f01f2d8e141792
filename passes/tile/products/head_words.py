"""The head's product of a GPU for some of its words: what constraints allow in any of their states.

A program takes blocks of listed words, one after another, and streams their rows of w, wherever
they lie, and x beside them, through shared memory to the tensor cores. How many words are listed is
read from memory, so that a recorded launch serves any list.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....ir.core import Operation, Value
from ....ir.schedule import Schedule
from ..builder import KernelBuilder
from .skinny_matmul import MULTIPROCESSORS, NARROW, ROWS

SCHEDULE = Schedule(num_warps=4, num_stages=4)
"""How its programs stream: a block of x and one of w take 32 KB, of which four are on their way."""


@dataclass(frozen=True)
class HeadWords:
    """What a kernel computes: w [V, K] in bf16, logits in f32. A program has up to `rows` rows, and
    `block_n` words at a time, `block_k` deep; `programs` share the list."""

    vocab: int
    k: int
    rows: int = NARROW
    block_n: int = 64
    block_k: int = 128
    programs: int = MULTIPROCESSORS

    @property
    def name(self) -> str:
        """A name that tells the extents."""
        return f"head_words_{self.vocab}x{self.k}_{self.rows}"


def head_words_shapes(vocab: int, k: int) -> list[HeadWords]:
    """Return the kernels of a head, of few rows first; none where K is no multiple of a block."""
    shapes = [HeadWords(vocab, k), HeadWords(vocab, k, ROWS, block_k=64)]
    return shapes if all(k % shape.block_k == 0 for shape in shapes) else []


def head_words(shape: HeadWords) -> Operation:
    """Return the kernel: logits[r, words[j]] = x[r] . w[words[j]] for j < count[0]; others stay.

    Arguments: R, x [R, K] bf16, w [V, K] bf16, count [1], words [V] i32, and, written, logits
    [R, V] f32. K is a multiple of `block_k`; numbers outside 0 .. V - 1 are no words.
    """
    s, b = shape, KernelBuilder(shape.name)
    tokens = b.scalar("R")
    x, w = b.buffer("x", "bf16", "R", s.k), b.buffer("w", "bf16", s.vocab, s.k)
    count, words = b.buffer("count", "i32", 1), b.buffer("words", "i32", s.vocab)
    logits = b.buffer("logits", "f32", "R", s.vocab)
    part, group = b.program_id(0, "part"), b.program_id(1, "group")
    row = b.map(f"a * {s.rows} + b", group, b.iota(s.rows), dtype="i32", hint="row")
    live = b.expand(b.map("a < b", row, tokens, hint="live"), 1)
    row = b.expand(row, 1)
    listed = b.load(count, b.full(0, "i32"), hint="listed")
    first = b.map(f"a * {s.block_n}", part, dtype="i32", hint="first")
    step = s.programs * s.block_n
    with b.loop(first, listed, step=step, hint="place") as loop:
        place = b.map("a + b", loop.index, b.iota(s.block_n), dtype="i32", hint="at")
        inside = b.map(f"(a < b) & (a < {s.vocab})", place, listed, dtype="bool", hint="inside")
        word = b.load(words, place, mask=inside, other=-1, hint="word")
        known = b.map(f"(a >= 0) & (a < {s.vocab})", word, hint="known")
        sums = _products(b, s, (x, row, live), (w, b.expand(word, 1), b.expand(known, 1)))
        column, known = b.expand(word, 0), b.expand(known, 0)
        b.store(logits, row, column, sums, mask=b.map("a & b", live, known, hint="mask"))
    grid = (s.programs, f"ceildiv(R, {s.rows})")
    return b.finish(*grid, requires=("R >= 0",), of="graph.matmul")


def _products(
    b: KernelBuilder, s: HeadWords, left: tuple[Value, Value, Value],
    right: tuple[Value, Value, Value],
) -> Value:  # fmt: skip
    """Return the products [rows, block_n] of a block's rows with its words."""
    (x, row, live), (w, word, known) = left, right
    start = b.full(0.0, "f32", s.rows, s.block_n)
    low, high = b.full(0, "i32"), b.full(s.k, "i32")
    with b.loop(low, high, start, step=s.block_k, hint="k") as loop:
        depth = b.map("a + b", loop.index, b.iota(s.block_k), dtype="i32", hint="depth")
        depth = b.expand(depth, 0)
        rows = b.load(x, row, depth, mask=live, hint="x_rows")
        weights = b.load(w, word, depth, mask=known, hint="w_rows")
        loop.yields(b.dot(rows, weights, loop.carried[0], transpose_b=True))
    return loop.results[0]
