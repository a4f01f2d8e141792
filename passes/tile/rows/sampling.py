"""Sampling kernels: masked argmax, the full sampler, and log-probabilities of given tokens.

A row of logits is walked in blocks of [words, 32], so that a block meets its mask bits word by
word. Nothing is sorted: thresholds are found by a search over the bit patterns of floats, which
is exact. A forbidden word counts less than any allowed one, also one of -inf. One program a row; R
rows. `words` is the block: 1 suits a CPU, whose registers hold what is carried from block to block,
256 with 16 warps a GPU, which draws few rows greedily, and samples, in parts (`sampling_parts`,
`sampling_rounds`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ....ir.constraints.token_masks import FORBIDDEN, LEAST_ALLOWED, few_words
from ....ir.core import Operation, Value
from ....ir.schedule import Schedule
from ..builder import KernelBuilder, Loop

LOG2E = 1.4426950408889634
LEAST = -2.0e38
"""Below every logit, and small enough that its difference from one is finite in base 2."""
LOWEST, HIGHEST = -2139095040, 2139095040
"""Keys of -FLT_MAX and of infinity: integers ordered as the floats are."""
KEY_VALUE = "bits_f32(where(a < 0, a ^ 2147483647, a))"

GOAL = "max(a, 1.0e-30) * b"
"""The mass that a top_p wants of a whole: some, so that of 0 the largest logit is kept."""


def argmax_masked(vocab: int, words: int = 1) -> Operation:
    """Return the greedy sampler.

    Arguments: R, logits [R, V], allowed [R, ceil(V / 32)] (bit v % 32 of word v // 32), token
    [R], logprob [R] (under the unmasked softmax), margin [R] (of the two best allowed logits).
    """
    return RowWalk(f"argmax_masked_{vocab}", vocab, words, greedy=True).kernel()


def sample(vocab: int, words: int = 1) -> Operation:
    """Return the sampler.

    Arguments: R, logits, allowed (as `argmax_masked`), temperature, top_k, top_p, min_p, u [R],
    token, logprob, margin [R]. Temperature 0 is the argmax. Else, of the logits over temperature:
    top_k (0: off) keeps values not below the k-th largest; p is the softmax of what is kept;
    min_p keeps p >= min_p * max p; top_p (1: off) keeps p >= t for the largest t of which that
    upper set holds top_p of the mass. The token is the first, in vocabulary order, at which the
    cumulative kept mass exceeds u of its total.
    """
    return RowWalk(f"sample_{vocab}", vocab, words, greedy=False).kernel()


def token_logprobs(vocab: int, words: int = 1) -> Operation:
    """Return log-softmax at given tokens. Arguments: R, logits [R, V], target, logprob [R]."""
    return RowWalk(f"token_logprobs_{vocab}", vocab, words, greedy=True, masked=False).logprobs()


def sampling_kernels(vocab: int, narrow: bool = False) -> list[tuple[Operation, Schedule]]:
    """Return the kernels that an engine draws with, with their CPU schedules; with `narrow` those
    of logits of a few words, too."""
    widths = (vocab, few_words(vocab)) if narrow else (vocab,)
    kernels = (kernel for width in widths for kernel in (argmax_masked(width), sample(width)))
    return [(kernel, Schedule()) for kernel in kernels]


class RowWalk:
    """Builds a kernel that walks rows of logits, from `start` to `end` in words of a mask."""

    def __init__(
        self, name: str, vocab: int, words: int, greedy: bool, masked: bool = True,
        rounds: bool = False,
    ) -> None:  # fmt: skip
        b = self.b = KernelBuilder(name)
        self.vocab, self.words, self.greedy = vocab, words, greedy
        b.scalar("R")
        if rounds:
            self.round = b.scalar("I")
        self.rounds = rounds
        self.logits = b.buffer("logits", "f32", "R", vocab)
        self.allowed = b.buffer("allowed", "i32", "R", -(-vocab // 32)) if masked else None

    def logprobs(self) -> Operation:
        """Return the kernel of `token_logprobs`."""
        b = self.b
        target, out = b.buffer("target", "i32", "R"), b.buffer("logprob", "f32", "R")
        self.begin()
        token = b.load(target, self.row)
        with self._blocks(*self._mass_start()) as (loop, (_, raw, _)):
            loop.yields(*self._more_mass(loop.carried, raw))
        self.store_logprob(out, token, self._whole_mass(*loop.results))
        facts = ("R >= 0", f"0 <= target[*] < {self.vocab}")
        return b.finish("R", requires=facts)

    def kernel(self) -> Operation:
        """Return the kernel of `argmax_masked` or `sample`."""
        b = self.b
        if not self.greedy:
            self.settings = {
                name: b.buffer(name, "i32" if name == "top_k" else "f32", "R")
                for name in ("temperature", "top_k", "top_p", "min_p", "u")
            }
        token, logprob = b.buffer("token", "i32", "R"), b.buffer("logprob", "f32", "R")
        margin = b.buffer("margin", "f32", "R")
        self.begin()
        best, first, second, mass = self._survey()
        chosen = best if self.greedy else self._draw(best, first)
        chosen = b.map(f"min(max(a, 0), {self.vocab - 1})", chosen, hint="chosen")
        b.store(token, self.row, chosen)
        b.store(margin, self.row, b.map("a - b", first, second))
        self.store_logprob(logprob, chosen, mass)
        return b.finish("R", requires=("R >= 0",))

    def begin(self) -> None:
        """Say which row a program walks."""
        b = self.b
        self.row = b.program_id(0, "row")
        self.start, self.end = b.full(0, "i32"), b.full(-(-self.vocab // 32), "i32")
        self.word, self.bit = b.iota(self.words), b.expand(b.iota(32), 0)

    @contextmanager
    def _blocks(self, *carry: Value, upto: Value | None = None
                ) -> Iterator[tuple[Loop, tuple[Value, Value, Value]]]:  # fmt: skip
        """Loop over the row; yields the loop and (index, logit, masked logit) of a block."""
        b = self.b
        with b.loop(self.start, upto or self.end, *carry, step=self.words, hint="base") as loop:
            yield loop, self.block(loop.index)

    def block(self, base: Value, on: Value | None = None) -> tuple[Value, Value, Value]:
        """Return index, logit and masked logit [words, 32] of the words from `base` on.

        Where `on`, an i32, is 0 nothing is read, and all is as after the row's end.
        """
        b = self.b
        word = b.map("a + b", base, self.word, dtype="i32", hint="word")
        token = b.map("a * 32 + b", b.expand(word, 1), self.bit, hint="index")
        text, values = f"a < {self.vocab}", [token]
        if on is not None:
            text, values = f"({text}) & (b + 0 * a > 0)", [token, on]
        inside = b.map(text, *values, dtype="bool", hint="inside")
        raw = b.load(self.logits, self.row, token, mask=inside, other=LEAST, hint="raw")
        return token, raw, self._masked(word, inside, raw)

    def _masked(self, word: Value, inside: Value, raw: Value) -> Value:
        if self.allowed is None:
            return raw
        b = self.b
        held = b.map(f"a < {-(-self.vocab // 32)}", word)
        bits = b.expand(b.load(self.allowed, self.row, word, mask=held, hint="bits"), 1)
        open_ = b.map("((a >> b) & 1) != 0", bits, self.bit, dtype="bool", hint="open")
        text = f"where(b, where(a, max(c, {LEAST_ALLOWED!r}), {FORBIDDEN!r}), {LEAST!r})"
        return b.map(text, open_, inside, raw, hint="logit")

    def _lanes(self, value: float, dtype: str = "f32") -> Value:
        """Return a block of one value: lanes accumulate apart, and are reduced after the loop."""
        return self.b.full(value, dtype, self.words, 32)

    def _mass_start(self) -> list[Value]:
        return [self._lanes(LEAST), self._lanes(0.0)]

    def _more_mass(self, carried: list[Value], raw: Value) -> list[Value]:
        """Return each lane's maximum and sum of exponentials below it, over one more block."""
        b, (top, mass) = self.b, carried
        higher = b.map("max(a, b)", top, raw, hint="top")
        text = f"a * exp2((b - c) * {LOG2E!r}) + exp2((d - c) * {LOG2E!r})"
        return [higher, b.map(text, mass, top, higher, raw, hint="mass")]

    def _whole_mass(self, top: Value, mass: Value) -> list[Value]:
        """Return the maximum of the row and its sum of exponentials below that."""
        highest = self.over("max", top)
        share = self.b.map(f"a * exp2((b - c) * {LOG2E!r})", mass, top, highest, hint="share")
        return [highest, self.over("sum", share)]

    def over(self, op: str, value: Value) -> Value:
        """Return the sum, max or min of a block."""
        return self.b.reduce(op, self.b.reduce(op, value, 1), 0)

    def _survey(self) -> tuple[Value, Value, Value, list[Value]]:
        """Return the best allowed token, the two best logits, and the unmasked softmax's mass."""
        b = self.b
        start = [self._lanes(0, "i32"), self._lanes(LEAST), self._lanes(LEAST)]
        with self._blocks(*start, *self._mass_start()) as (loop, (token, raw, logit)):
            best, first, second, *mass = loop.carried
            loop.yields(
                b.map("where(a > b, c, d)", logit, first, token, best, dtype="i32", hint="best"),
                b.map("max(a, b)", first, logit, hint="first"),
                b.map("max(a, min(b, c))", second, first, logit, hint="second"),
                *self._more_mass(mass, raw),
            )
        best, first, second, *mass = loop.results
        top = self.over("max", first)
        candidate = b.map(f"where(a == b, c, {self.vocab})", first, top, best, dtype="i32")
        token = self.over("min", candidate)
        rest = b.map("where((a == b) & (c == d), e, c)", best, token, first, top, second)
        return token, top, self.over("max", rest), self._whole_mass(*mass)

    def store_logprob(self, out: Value, token: Value, mass: list[Value]) -> None:
        """Store a token's log-probability, of the row's maximum and mass below that."""
        b = self.b
        logit = b.load(self.logits, self.row, token)
        text = f"a - b - log2(c) / {LOG2E!r}"
        b.store(out, self.row, b.map(text, logit, *mass, dtype="f32"))

    def _draw(self, best: Value, first: Value) -> Value:
        b = self.b
        given = {name: b.load(buffer, self.row) for name, buffer in self.settings.items()}
        self.first = first
        self.rate = b.map(
            f"where(a > 0.0, {LOG2E!r} / max(a, 1.0e-30), 0.0)", given["temperature"], hint="rate"
        )
        hot = b.map("a > 0.0", given["temperature"], hint="hot")
        self.stop = b.map("where(a, b, 0)", hot, self.end, dtype="i32", hint="stop")
        lowest = b.full(-3.0e38, "f32")
        kth = self._kth_largest(b.map("where(a, b, 0)", hot, given["top_k"], dtype="i32"))
        kth = b.map("where((a > 0) & b, c, d)", given["top_k"], hot, kth, lowest, dtype="f32")
        goal = self._nucleus(given["top_p"], hot, kth)
        floor = b.map("max(a, b)", kth, goal, hint="floor")
        token = self._inverse_cdf(given["u"], given["min_p"], floor)
        return b.map("where(a, b, c)", hot, token, best, dtype="i32", hint="drawn")

    def _mass(self, logit: Value, floor: Value) -> Value:
        """Return the unnormalised probabilities, at most 1, of the logits not below a floor."""
        text = "where(a >= b, exp2((a - c) * d), 0.0)"
        return self.b.map(text, logit, floor, self.first, self.rate, hint="p")

    def _kth_largest(self, k: Value) -> Value:
        """Return the k-th largest masked logit, if k > 0."""
        b = self.b
        with self._search(b.map("a > 0", k)) as (search, values):
            counts = [self._lanes(0, "i32")] * 3
            with self._blocks(*counts, upto=self.stop) as (loop, (_, _, logit)):
                text = "a + where(b >= c, 1, 0)"
                pairs = zip(loop.carried, values, strict=True)
                loop.yields(*(b.map(text, n, logit, t, dtype="i32", hint="n") for n, t in pairs))
            above = [self.over("sum", lanes) for lanes in loop.results]
            search.narrow([b.map("a >= b", n, k, hint="enough") for n in above])
        return b.map(KEY_VALUE, search.loop.results[0], dtype="f32", hint="kth")

    def _nucleus(self, top_p: Value, hot: Value, kth: Value) -> Value:
        """Return the lowest logit that top_p keeps."""
        b = self.b
        on = b.map("(a < 1.0) & b", top_p, hot, hint="on")
        stop = b.map("where(a, b, 0)", on, self.stop, dtype="i32")
        goal = b.map(GOAL, top_p, *self._totals([kth], stop), hint="goal")
        with self._search(on) as (search, values):
            floors = [b.map("max(a, b)", value, kth, hint="floor") for value in values]
            totals = self._totals(floors, stop)
            search.narrow([b.map("a >= b", total, goal, hint="enough") for total in totals])
        value = b.map(KEY_VALUE, search.loop.results[0], dtype="f32")
        return b.map("where(a, b, -3.0e38)", on, value, dtype="f32", hint="nucleus")

    def _totals(self, floors: list[Value], stop: Value) -> list[Value]:
        """Return the mass of the logits not below each floor."""
        b = self.b
        with self._blocks(*[self._lanes(0.0)] * len(floors), upto=stop) as (loop, (_, _, logit)):
            parts = [self._mass(logit, floor) for floor in floors]
            pairs = zip(loop.carried, parts, strict=True)
            loop.yields(*(b.map("a + b", total, part, hint="total") for total, part in pairs))
        return [self.over("sum", lanes) for lanes in loop.results]

    @contextmanager
    def _search(self, wanted: Value) -> Iterator[tuple[_Search, list[Value]]]:
        """Search the keys of floats, two bits a pass: yields three thresholds to decide on."""
        b = self.b
        rounds = b.map("where(a, 16, 0)", wanted, dtype="i32", hint="rounds")
        low, high = b.full(LOWEST, "i32"), b.full(HIGHEST, "i32")
        with b.loop(self.start, rounds, low, high, hint="round") as loop:
            search = _Search(b, loop)
            yield search, [b.map(KEY_VALUE, q, dtype="f32", hint="value") for q in search.quarters]

    def _inverse_cdf(self, u: Value, min_p: Value, floor: Value) -> Value:
        """Return the first token at which the kept mass, summed in order, exceeds u of it."""
        b = self.b

        def kept(logit: Value) -> Value:
            return b.map("where(a >= b, a, 0.0)", self._mass(logit, floor), min_p, hint="kept")

        with self._blocks(self._lanes(0.0), upto=self.stop) as (loop, (_, _, logit)):
            loop.yields(b.map("a + b", loop.carried[0], kept(logit), hint="total"))
        goal = b.map("a * b", u, self.over("sum", loop.results[0]), hint="goal")
        start = [b.full(0.0, "f32"), b.full(0, "i32"), b.full(0, "i32")]
        with self._blocks(*start, upto=self.stop) as (loop, (token, _, logit)):
            mass, before, last = loop.carried
            p = kept(logit)
            running = b.scan(b.reshape(p, self.words * 32), 0)
            short = b.map("where(a + b <= c, 1, 0)", mass, running, goal, dtype="i32")
            held = b.map("where(a > 0.0, b, 0)", p, token, dtype="i32")
            loop.yields(
                b.map("a + b", mass, self.over("sum", p), hint="mass"),
                b.map("a + b", before, b.reduce("sum", short, 0), hint="before"),
                b.map("max(a, b)", last, self.over("max", held), hint="last"),
            )
        return b.map("min(a, b)", loop.results[1], loop.results[2], hint="token")


class _Search:
    """One round of a search for the largest key at which a falling condition holds."""

    def __init__(self, b: KernelBuilder, loop: Loop) -> None:
        self._b, self.loop = b, loop
        low, high = loop.carried
        self.quarters = keys_between(b, low, high, 2)

    def narrow(self, holds: list[Value]) -> None:
        """Keep the quarter between the last key that holds and the first that does not."""
        low, high = self.loop.carried
        self.loop.yields(*narrowed(self._b, low, high, self.quarters, holds))


def keys_between(b: KernelBuilder, low: Value, high: Value, bits: int) -> list[Value]:
    """Return the 2 ** bits - 1 keys that cut what lies between two keys in equal parts."""
    middle = b.map("(a & b) + ((a ^ b) >> 1)", low, high, hint="middle")
    if bits == 1:
        return [middle]
    below, above = (keys_between(b, *ends, bits - 1) for ends in ((low, middle), (middle, high)))
    return [*below, middle, *above]


def narrowed(
    b: KernelBuilder, low: Value, high: Value, keys: list[Value], holds: list[Value]
) -> tuple[Value, Value]:
    """Return the last key that holds, or `low`, and the first that does not, or `high`."""
    for key, test in zip(keys, holds, strict=True):
        low = b.map("where(a, b, c)", test, key, low, dtype="i32", hint="low")
    for key, test in zip(keys[::-1], holds[::-1], strict=True):
        high = b.map("where(a, b, c)", test, high, key, dtype="i32", hint="high")
    return low, high
