"""Sampled draws in parts: searches for thresholds go round by round, a launch each, in all parts.

A round finds `SEARCH_BITS` bits of a threshold. Each program first adds up what all parts of its
row counted in the round before, narrows its keys by that, and then counts its own part at the next
thresholds. Keys and what is kept of a row are those of `sampling.sample`.

Launches of a draw: `survey_parts`; for top_k `count_round` with round 0 .. SEARCH_ROUNDS, the last
of which only narrows; for top_p so many of `mass_round`; `kept_parts`; `sample_join`. The sums and
keys of one round are read by the next, and two buffers of each take turns: all threads of a program
read its keys, at no particular time, so that none may write new ones in their place.
"""

from __future__ import annotations

from ....ir.constraints.vocabulary_parts import SEARCH_BITS, SEARCH_ROUNDS
from ....ir.core import Operation, Value
from .sampling import GOAL, HIGHEST, KEY_VALUE, LEAST, LOG2E, LOWEST, keys_between, narrowed
from .sampling_parts import PartWalk

KEYS = (1 << SEARCH_BITS) - 1
"""Thresholds of a round."""

NO_FLOOR = "-3.0e38"


def count_round(vocab: int, words: int) -> Operation:
    """Return a round of the search for the k-th largest masked logit.

    Arguments: R, I (the round), logits [R, V], allowed [R, ceil(V / 32)], temperature, top_k [R];
    of the round before, kth, kth_end [R, P] i32 (the keys between which the result is) and above
    [KEYS, R, P] i32 (counts); and, written, of this one next_kth (the result after the last round),
    next_kth_end, next_above. Of rows of temperature 0 or top_k 0 the logits are left alone.
    """
    walk = _Draw(f"count_round_{vocab}", vocab, words, ("temperature", "top_k"), rounds=True)
    b = walk.b
    before, after = walk.turns("kth", ("above", "i32", KEYS))
    walk.begin_part()
    on = b.map("(a > 0.0) & (b > 0)", *walk.setting("temperature", "top_k"), dtype="bool")
    sums = walk.sums(before[-1], KEYS, 0)
    enough = [b.map("a >= b", n, walk.given["top_k"]) for n in sums]
    keys = walk.narrow(before, after, enough)
    logit = walk.masked_logits(on)
    values = [b.map(KEY_VALUE, key, dtype="f32", hint="value") for key in keys]
    for number in range(0, KEYS, 2):
        walk.store_counts(after[-1], number, logit, values[number : number + 2])
    return walk.finish()


def mass_round(vocab: int, words: int) -> Operation:
    """Return a round of the search for the lowest logit that top_p keeps.

    Arguments: R, I, logits, allowed, temperature, top_k, top_p, first [R, P], kth [R, P] (of
    `count_round`; of no account where top_k is 0); of the round before, nucleus, nucleus_end [R, P]
    i32 and above [KEYS + 1, R, P] f32 (masses not below each threshold, and all that top_k keeps);
    and, written, of this one next_nucleus, next_nucleus_end, next_above.
    """
    names = ("temperature", "top_k", "top_p")
    walk = _Draw(f"mass_round_{vocab}", vocab, words, names, rounds=True)
    b = walk.b
    first, kth = b.buffer("first", "f32", "R", walk.parts), b.buffer("kth", "i32", "R", walk.parts)
    before, after = walk.turns("nucleus", ("above", "f32", KEYS + 1))
    walk.begin_part()
    on = b.map("(a > 0.0) & (b < 1.0)", *walk.setting("temperature", "top_p"), dtype="bool")
    *sums, whole = walk.sums(before[-1], KEYS + 1, 0.0)
    goal = b.map(GOAL, walk.given["top_p"], whole, hint="goal")
    keys = walk.narrow(before, after, [b.map("a >= b", total, goal) for total in sums])
    floor = walk.kth_floor(kth)
    p = walk.masses(walk.masked_logits(on), first, floor)
    logit = walk.logit
    for number, key in enumerate(keys):
        value = b.map(KEY_VALUE, key, dtype="f32", hint="value")
        walk.store_sum(after[-1], number, b.map("where(a >= b, c, 0.0)", logit, value, p))
    walk.store_sum(after[-1], KEYS, p)
    return walk.finish()


def kept_parts(vocab: int, words: int) -> Operation:
    """Return the kernel that sums up what a row's settings keep of each part.

    Arguments: R, logits, allowed, temperature, top_k, top_p, min_p, first, kth, nucleus [R, P],
    and, written, kept [R, P] f32.
    """
    names = ("temperature", "top_k", "top_p", "min_p")
    walk = _Draw(f"kept_parts_{vocab}", vocab, words, names)
    b = walk.b
    first, kth, nucleus = walk.thresholds()
    out = b.buffer("kept", "f32", "R", walk.parts)
    walk.begin_part()
    on = b.map("a > 0.0", *walk.setting("temperature"))
    floor = walk.floor(kth, nucleus)
    kept = walk.kept(walk.masses(walk.masked_logits(on), first, floor))
    b.store(out, walk.row, walk.place, walk.over("sum", kept))
    return walk.finish()


def sample_join(vocab: int, words: int) -> Operation:
    """Return the kernel that draws of what the others found: it looks at one part of a row.

    Arguments: R, logits, allowed, temperature, top_k, top_p, min_p, u [R], best, first, second,
    top, mass, kth, nucleus, kept [R, P], and, written, token, logprob, margin [R].
    """
    names = ("temperature", "top_k", "top_p", "min_p", "u")
    walk = _Draw(f"sample_join_{vocab}", vocab, words, names)
    b, found = walk.b, walk.survey_buffers()
    kth, nucleus = (b.buffer(name, "i32", "R", walk.parts) for name in ("kth", "nucleus"))
    kept = b.buffer("kept", "f32", "R", walk.parts)
    token, logprob = b.buffer("token", "i32", "R"), b.buffer("logprob", "f32", "R")
    margin = b.buffer("margin", "f32", "R")
    walk.begin()
    best, first, second, mass = walk.joined(found)
    hot = b.map("a > 0.0", *walk.setting("temperature"), hint="hot")
    walk.place, goal, passed = _part_of(walk, walk.of_parts(kept, 0.0), walk.setting("u")[0])
    floor = walk.floor(kth, nucleus)
    p = walk.kept(walk.masses(walk.masked_logits(hot), found[1], floor))
    running = b.scan(b.reshape(p, words * 32), 0)
    short = b.map("where(a + b <= c, 1, 0)", passed, running, goal, dtype="i32", hint="short")
    held = b.map("where(a > 0.0, b, 0)", p, walk.index, dtype="i32", hint="held")
    text = f"min(a * {words * 32} + b, c)"
    place = b.map(text, walk.place, b.reduce("sum", short, 0), walk.over("max", held), dtype="i32")
    drawn = b.map("where(a, b, c)", hot, place, best, dtype="i32", hint="drawn")
    drawn = b.map(f"min(max(a, 0), {vocab - 1})", drawn, hint="chosen")
    b.store(token, walk.row, drawn)
    b.store(margin, walk.row, b.map("a - b", first, second))
    walk.store_logprob(logprob, drawn, mass)
    return b.finish("R", requires=("R >= 0",))


def _part_of(walk: _Draw, kept: Value, u: Value) -> tuple[Value, Value, Value]:
    """Return the part in which the kept mass exceeds u of all, that goal, and the mass before."""
    b = walk.b
    running = b.scan(kept, 0)
    goal = b.map("a * b", u, b.reduce("sum", kept, 0), hint="goal")
    lane = b.iota(1 << (walk.parts - 1).bit_length())
    short = b.reduce("sum", b.map("where(a <= b, 1, 0)", running, goal, dtype="i32"), 0)
    last = b.reduce("max", b.map("where(a > 0.0, b, 0)", kept, lane, dtype="i32"), 0)
    text = f"max(0, min(min(a, b), {walk.parts - 1}))"
    place = b.map(text, short, last, dtype="i32", hint="place")
    earlier = b.map("where(a < b, c, 0.0)", lane, place, kept, hint="earlier")
    return place, goal, b.reduce("sum", earlier, 0, hint="passed")


class _Draw(PartWalk):
    """Builds a kernel of a draw: one part of each row, by the row's settings."""

    def __init__(
        self, name: str, vocab: int, words: int, settings: tuple[str, ...], rounds: bool = False
    ) -> None:  # fmt: skip
        super().__init__(name, vocab, words, rounds=rounds)
        self._settings = {
            name: self.b.buffer(name, "i32" if name == "top_k" else "f32", "R") for name in settings
        }
        self.given: dict[str, Value] = {}

    def begin_part(self) -> None:
        """Say which part of which row a program looks at."""
        self.begin()
        self.place = self.b.program_id(1, "part")

    def setting(self, *names: str) -> list[Value]:
        """Return settings of the row."""
        for name in names:
            if name not in self.given:
                self.given[name] = self.b.load(self._settings[name], self.row)
        return [self.given[name] for name in names]

    def thresholds(self) -> tuple[Value, Value, Value]:
        """Declare the largest logits of parts, and the keys that searches found."""
        b = self.b
        first = b.buffer("first", "f32", "R", self.parts)
        kth = b.buffer("kth", "i32", "R", self.parts)
        return first, kth, b.buffer("nucleus", "i32", "R", self.parts)

    def turns(self, key: str, sums: tuple[str, str, int]) -> list[list[Value]]:
        """Declare keys, their ends, and sums (name, dtype, how many): those read, those written."""
        b, (name, dtype, count) = self.b, sums
        return [
            [*(b.buffer(turn + end, "i32", "R", self.parts) for end in (key, f"{key}_end")),
             b.buffer(turn + name, dtype, count, "R", self.parts)]
            for turn in ("", "next_")
        ]  # fmt: skip

    def sums(self, before: Value, count: int, other: float) -> list[Value]:
        """Return what all parts of the row counted in the round before."""
        b = self.b
        numbers = (b.full(number, "i32") for number in range(count))
        return [b.reduce("sum", self.of_parts(before, other, n), 0) for n in numbers]

    def narrow(
        self, before: list[Value], after: list[Value], holds: list[Value]
    ) -> list[Value]:  # fmt: skip
        """Narrow the part's keys by the round before, keep them, and return the next ones."""
        b, at = self.b, (self.row, self.place)
        later = b.map("a > 0", self.round, hint="later")
        start, end = (
            b.map("where(a, b, c)", later, b.load(buffer, *at), b.full(limit, "i32"), dtype="i32")
            for buffer, limit in zip(before[:2], (LOWEST, HIGHEST), strict=True)
        )
        tests = [b.map("a & b", later, test, dtype="bool") for test in holds]
        below, above = narrowed(b, start, end, keys_between(b, start, end, SEARCH_BITS), tests)
        above = b.map("where(a, b, c)", later, above, end, dtype="i32", hint="above")
        b.store(after[0], *at, below)
        b.store(after[1], *at, above)
        return keys_between(b, below, above, SEARCH_BITS)

    def masked_logits(self, on: Value) -> Value:
        """Return the part's masked logits, read only where `on` and before the last round."""
        b = self.b
        text, values = "where(a, 1, 0)", [on]
        if self.rounds:
            text, values = f"where(a & (b < {SEARCH_ROUNDS}), 1, 0)", [on, self.round]
        on = b.map(text, *values, dtype="i32", hint="on")
        base = b.map(f"a * {self.words}", self.place, dtype="i32", hint="base")
        self.index, _, self.logit = self.block(base, on)
        return self.logit

    def kth_floor(self, kth: Value) -> Value:
        """Return the k-th largest logit, where a row has a k."""
        key = self.b.load(kth, self.row, self.place)
        value = self.b.map(KEY_VALUE, key, dtype="f32")
        return self.b.map(
            f"where(a > 0, b, {NO_FLOOR})", *self.setting("top_k"), value, dtype="f32"
        )

    def floor(self, kth: Value, nucleus: Value) -> Value:
        """Return the lowest logit that top_k and top_p keep."""
        b = self.b
        value = b.map(KEY_VALUE, b.load(nucleus, self.row, self.place), dtype="f32")
        text = f"where(a < 1.0, b, {NO_FLOOR})"
        lowest = b.map(text, *self.setting("top_p"), value, dtype="f32", hint="nucleus")
        return b.map("max(a, b)", self.kth_floor(kth), lowest, hint="floor")

    def masses(self, logit: Value, first: Value, floor: Value) -> Value:
        """Return the unnormalised probabilities, at most 1, of the logits not below a floor."""
        b = self.b
        peak = b.reduce("max", self.of_parts(first, LEAST), 0, hint="peak")
        text = f"where(a > 0.0, {LOG2E!r} / max(a, 1.0e-30), 0.0)"
        rate = b.map(text, *self.setting("temperature"), hint="rate")
        text = "where(a >= b, exp2((a - c) * d), 0.0)"
        return b.map(text, logit, floor, peak, rate, hint="p")

    def kept(self, p: Value) -> Value:
        """Return the probabilities that min_p keeps."""
        return self.b.map("where(a >= b, a, 0.0)", p, *self.setting("min_p"), hint="kept")

    def store_sum(self, out: Value, number: int, block: Value) -> None:
        """Store one of the part's sums."""
        at = self.b.full(number, "i32"), self.row, self.place
        self.b.store(out, *at, self.over("sum", block))

    def store_counts(self, out: Value, number: int, logit: Value, least: list[Value]) -> None:
        """Store how many of the part's logits are not below each of one or two thresholds: both are
        counted in one sum, since a part has fewer than 2 ** 15 logits."""
        b, test = self.b, "where(a >= b, 1, 0)"
        text = f"{test} + where(a >= c, 65536, 0)" if len(least) > 1 else test
        both = self.over("sum", b.map(text, logit, *least, dtype="i32", hint="above"))
        for place, take in enumerate(("a & 65535", "a >> 16")[: len(least)]):
            at = b.full(number + place, "i32"), self.row, self.place
            b.store(out, *at, b.map(take, both, dtype="i32"))

    def finish(self) -> Operation:
        """Return the kernel of all parts."""
        facts = ("R >= 0", "I >= 0") if self.rounds else ("R >= 0",)
        return self.b.finish("R", self.parts, requires=facts)
