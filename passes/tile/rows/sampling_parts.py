"""The greedy draw of a few rows, in parts: a program looks at one part of a row's vocabulary, and
another joins what was found.

One program walks a row of 128 K logits in 18 us (H200), while all other multiprocessors wait.
Results are those of `argmax_masked`, for any number of parts; there are P, of the words that were
asked for.
"""

from __future__ import annotations

from ....ir.constraints.vocabulary_parts import part_count
from ....ir.core import Operation, Value
from .sampling import LEAST, LOG2E, RowWalk

SURVEY = ("best", "first", "second", "top", "mass")
"""What is kept of a part, [R, P] each: the best allowed token, the two best allowed logits, the
largest logit, and the sum of exponentials below that."""


def survey_parts(vocab: int, words: int) -> Operation:
    """Return the kernel that looks at parts of rows.

    Arguments: R, logits [R, V], allowed [R, ceil(V / 32)] (as `argmax_masked`), and, written, best
    [R, P] i32, first, second, top, mass [R, P] f32.
    """
    walk = PartWalk(f"survey_parts_{vocab}", vocab, words)
    b, outs = walk.b, walk.survey_buffers()
    token, raw, logit = walk.part()
    first = b.map(f"max(a, {LEAST!r})", walk.over("max", logit), hint="first")
    candidate = b.map(f"where(a == b, c, {vocab})", logit, first, token, dtype="i32")
    best = walk.over("min", candidate)
    others = b.map(f"where(a == b, {LEAST!r}, c)", token, best, logit, hint="others")
    second = b.map(f"max(a, {LEAST!r})", walk.over("max", others), hint="second")
    top = b.map(f"max(a, {LEAST!r})", walk.over("max", raw), hint="top")
    share = b.map(f"exp2((a - b) * {LOG2E!r})", raw, top, hint="share")
    for out, value in zip(outs, (best, first, second, top, walk.over("sum", share)), strict=True):
        b.store(out, walk.row, walk.place, value)
    return b.finish("R", walk.parts, requires=("R >= 0",))


def argmax_join(vocab: int, words: int) -> Operation:
    """Return the kernel that draws greedily of what `survey_parts` found.

    Arguments: R, logits [R, V], best, first, second, top, mass [R, P], and, written, token,
    logprob, margin [R], as `argmax_masked` gives them.
    """
    walk = PartWalk(f"argmax_join_{vocab}", vocab, words, masked=False)
    b, found = walk.b, walk.survey_buffers()
    token, logprob = b.buffer("token", "i32", "R"), b.buffer("logprob", "f32", "R")
    margin = b.buffer("margin", "f32", "R")
    walk.begin()
    best, first, second, mass = walk.joined(found)
    b.store(token, walk.row, best)
    b.store(margin, walk.row, b.map("a - b", first, second))
    walk.store_logprob(logprob, best, mass)
    return b.finish("R", requires=("R >= 0",))


class PartWalk(RowWalk):
    """Builds a kernel that looks at one part of each row, or at what was found in all of them."""

    def __init__(
        self, name: str, vocab: int, words: int, masked: bool = True, rounds: bool = False
    ) -> None:
        super().__init__(name, vocab, words, greedy=True, masked=masked, rounds=rounds)
        self.parts = part_count(vocab, words)

    def over(self, op: str, value: Value) -> Value:
        """Return the sum, max or min of a block, as one row: each thread takes all that it has
        before threads exchange what they found."""
        return self.b.reduce(op, self.b.reshape(value, self.words * 32), 0)

    def survey_buffers(self) -> list[Value]:
        """Declare the buffers of `SURVEY`."""
        return [self.b.buffer(name, "i32" if name == "best" else "f32", "R", self.parts)
                for name in SURVEY]  # fmt: skip

    def part(self) -> tuple[Value, Value, Value]:
        """Return index, logit and masked logit [words, 32] of the program's part."""
        self.begin()
        self.place = self.b.program_id(1, "part")
        base = self.b.map(f"a * {self.words}", self.place, dtype="i32", hint="base")
        return self.block(base)

    def of_parts(self, buffer: Value, other: float, *before: Value) -> Value:
        """Return a row's numbers of all parts; lanes past the last are `other`."""
        b = self.b
        lane = b.iota(1 << (self.parts - 1).bit_length())
        inside = b.map(f"a < {self.parts}", lane, hint="inside")
        return b.load(buffer, *before, self.row, lane, mask=inside, other=other)

    def joined(self, found: list[Value]) -> tuple[Value, Value, Value, list[Value]]:
        """Return the best token, the two best logits, and the unmasked softmax's mass."""
        b = self.b
        none = (self.vocab, LEAST, LEAST, LEAST, 0.0)
        parts = [self.of_parts(*pair) for pair in zip(found, none, strict=True)]
        best, first, second, top, mass = parts
        highest = b.reduce("max", first, 0, hint="first")
        candidate = b.map(f"where(a == b, c, {self.vocab})", first, highest, best, dtype="i32")
        lowest = b.reduce("min", candidate, 0)
        rest = b.map("where((a == b) & (c == d), e, a)", first, highest, best, lowest, second)
        peak = b.reduce("max", top, 0, hint="peak")
        share = b.map(f"a * exp2((b - c) * {LOG2E!r})", mass, top, peak, hint="share")
        drawn = f"where((a >= 0) & (a < {self.vocab}), a, 0)"
        token = b.map(drawn, lowest, dtype="i32", hint="chosen")
        runner = b.reduce("max", rest, 0, hint="runner")
        return token, highest, runner, [peak, b.reduce("sum", share, 0)]
