"""Admission: how much KV memory a row may need, worked out before it starts, from its own values.

Every open row has a claim: the most pages that it holds, whatever the schedule and however long
its gens get. Rows start only while the claims of all open ones fit, so that no row ever has to
give pages back. What a gen on the row's own stream leaves of its token budget is claimed no longer.
Where fewer rows would fit so than a step takes, they are not held to their claims: what gens may
make at most is far from what they make, and steps would be empty. Such rows start while the open
ones use less than a share of the memory, and may have to compute KV again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ..ir.budget import UNBOUNDED, Budgets, Limits
from ..ir.core import Operation, walk
from ..ir.values import format_value
from ..ir.vocabulary import Tokenizer, encode_parts, shared_characters
from .kv_cache import PagedKV

OPEN_BELOW = 0.7
"""Rows without a proof start while open ones use less than this share of the KV memory."""

AHEAD = (UNBOUNDED, 8, 4, 2, 1)
"""How many parts of one row may go side by side; the most that leaves room for all rows."""


UNPROVEN_AHEAD = 8
"""The same for a row without a proof, whose memory nobody knows."""


@dataclass(frozen=True)
class Claim:
    """The most pages that a row may hold, with so many of its parts side by side.

    Of a proven one, `tokens` is the most that its own stream may get; they are in `pages`.
    """

    pages: int
    ahead: int
    proven: bool = True
    tokens: int = 0

    def less(self, spared: int, limits: Limits) -> Claim:
        """Return what is left of it when gens on its own stream have ended so many tokens early.

        What the stream's parts may hold stays as it was.
        """
        if not self.proven or not self.tokens:
            return self
        tokens = max(0, self.tokens - spared)
        most, left = (limits.pages(min(size, limits.context)) for size in (self.tokens, tokens))
        return replace(self, pages=max(1, self.pages - most + left), tokens=tokens)


PREPARED = 64
"""Rows at most whose prompts are encoded at once."""

FRESH = 1 << 15
"""Characters that are encoded at once: some milliseconds on one core."""

FIRST_FRESH = 1 << 12
"""Characters that are encoded before anything is computed; then twice as many, up to `FRESH`."""

MOST_CLAIMS = 1 << 14
"""Claims that are remembered, by the sizes that they follow from."""

SHARED = 64
"""Characters, about a page of tokens, from which prompts count as beginning alike."""

SHORT = 64
"""Bytes up to which a text's tokens are not counted to be sure that they are fewer."""


NEARLY = 4
"""What tokens of an element are rounded up to, so that claims of many rows agree."""


@dataclass(frozen=True)
class Run:
    """A text that is encoded in one piece, and where in it values stand."""

    text: str
    values: tuple[tuple[int, int], ...]


class Forecast:
    """Works out rows' claims; `most` rows should be open at a time."""

    def __init__(
        self, programs: Mapping[str, Operation], function: Operation, tokenizer: Tokenizer,
        limits: Limits, num_pages: int, most: int,
    ) -> None:  # fmt: skip
        self._budgets: list[tuple[int, Budgets]] = []
        if all(program.attribute("budget") is not None for program in programs.values()):
            self._budgets = [
                (ahead, Budgets(programs.values(), Limits(limits.page_size, limits.context, ahead)))
                for ahead in AHEAD
            ]
        self._name = function["name"].name
        self._num_pages = num_pages
        self._most = most
        self._tokenizer = tokenizer
        values = function.regions[0].arguments[1:]
        names = [entry["name"] for entry in function["parameters"]]
        self._parameters = {value.name: name for value, name in zip(values, names, strict=True)}
        self._segments = {
            op.result.name: op
            for op in walk(function.regions[0].operations)
            if op.name == "plan.tokenize"
        }
        self._elements = dict(_elements(function, self._parameters))
        self._leading = tuple(_leading(function, self._parameters))
        self._symbols = self._budgets[0][1].symbols[self._name] if self._budgets else ()
        self.limits = limits
        self._claims: dict[tuple[tuple[str, int], ...], Claim] = {}
        self._counts: dict[str, int] = {}
        self._of_elements: dict[tuple[int | str, ...], int] = {}

    def claim(self, arguments: Mapping[str, Any], rows: int | None = None) -> Claim:
        """Return a row's claim, with as much of it side by side as leaves room for all rows.

        `rows` are open or will be soon (default: as many as may be).

        It is unproven without a budget, and when so many rows with such claims do not fit.
        """
        # A power of two, so that claims that were worked out can be used again.
        rows = 1 << (min(rows or self._most, self._most) - 1).bit_length()
        sizes = (("rows", min(rows, self._most)), *self._sizes(arguments))
        claim = self._claims.get(sizes)
        if claim is None:
            if len(self._claims) >= MOST_CLAIMS:
                self._claims.clear()
            claim = self._claims[sizes] = self._claim(dict(sizes))
        return claim

    def _claim(self, sizes: Mapping[str, int]) -> Claim:
        symbols, most = sizes.__getitem__, sizes["rows"]
        for ahead, budgets in self._budgets:
            peak = budgets.peak(self._name, symbols)
            if peak.pages * most <= self._num_pages:
                return Claim(max(1, peak.pages), ahead, tokens=peak.wanted)
            # However few parts go side by side, the stream stays.
            if peak.own * most > self._num_pages:
                break
        return Claim(self._num_pages, UNPROVEN_AHEAD, proven=False)

    def beginning(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts that a row's prompt begins with, as far as its values give them.

        Rows in the order of these stand in the order of a walk over the tree of their prompts.
        """
        return tuple(format_value(arguments[name]) for name in self._leading)

    def prepare(self, rows: Iterable[Mapping[str, Any]], most: int = FRESH) -> int:
        """Let the tokenizer encode what rows' prompts begin with, all at once if it can.

        Return for how many rows: as many as have `most` characters that no prompt before has.
        """
        prepare = getattr(self._tokenizer, "prepare", None)
        first = next(iter(self._segments.values()), None)
        known = self._parameters
        if prepare is None or first is None:
            return sum(1 for _ in rows)
        if not all(value.name in known for value in first.operands):
            return sum(1 for _ in rows)
        runs: list[list[Run]] = []
        fresh, before = 0, ""
        for row in rows:
            runs.append(list(self._runs(first, row)))
            text = "".join(run.text for run in runs[-1])
            fresh += len(text) - shared_characters(before, text)
            before = text
            if fresh >= most:
                break
        prepare(run.text for row in runs for run in row)
        self._count(run for row in runs for run in row)
        return len(runs)

    def forget(self) -> None:
        """Let the tokenizer let go of what it has encoded ahead: no row is left."""
        forget = getattr(self._tokenizer, "forget", None)
        if forget is not None:
            forget()

    def _count(self, runs: Iterable[Run]) -> None:
        """Note how many tokens the values in some texts are, each value once."""
        self._counts = {}
        for run in runs:
            for start, end in run.values:
                text = run.text[start:end]
                if text not in self._counts:
                    count = self._tokenizer.tokens_in(run.text, start, end)  # type: ignore[attr-defined]
                    if count is not None:
                        self._counts[text] = count

    def _runs(self, segment: Operation, arguments: Mapping[str, Any]) -> Iterator[Run]:
        """Yield the texts between a segment's special tokens, as they are encoded."""
        text, values = "", []
        parts = zip(segment["parts"], self._filled(segment, arguments), strict=True)
        for part, filled in (*parts, (0, 0)):
            if isinstance(filled, str):
                if not isinstance(part, str):
                    values.append((len(text), len(text) + len(filled)))
                text += filled
            else:
                if text:
                    yield Run(text, tuple(values))
                text, values = "", []

    def _filled(
        self, segment: Operation, arguments: Mapping[str, Any], element: Any = None
    ) -> list[int | str]:
        """Return a segment's parts with the values of a row, and an element of its list."""
        values = [
            element if value.name in self._elements else arguments[self._parameters[value.name]]
            for value in segment.operands
        ]
        return [
            part if isinstance(part, int | str) else format_value(values[part["value"]])
            for part in segment["parts"]
        ]

    def _sizes(self, arguments: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
        """Return the value of each symbol; sizes of texts are whole pages, so that many agree."""
        return tuple((symbol, self._size(symbol, arguments)) for symbol in self._symbols)

    def _size(self, symbol: str, arguments: Mapping[str, Any]) -> int:
        what, name = symbol.split(" ", 1)
        if what == "tokens":
            return self._of_segment(self._segments[name], arguments)
        value = arguments[name]
        if what == "count":
            return len(value)
        if what == "value":
            return max(0, int(value))
        if what == "longest":
            return self._whole(max(map(_bytes, value), default=0))
        if what == "bytes":
            return self._whole(_bytes(value))
        return self._whole(self._in_prompt(format_value(value)))

    def _of_segment(self, segment: Operation, arguments: Mapping[str, Any]) -> int:
        """Return a segment's tokens, in whole pages; or its most of any element, nearly exactly.

        A loop has as many of these as there are elements, so that pages would add up.
        """
        lists = {self._elements[v.name] for v in segment.operands if v.name in self._elements}
        if not lists:
            return self._whole(self._tokens(segment, arguments))
        (name,) = lists
        every = (self._filled(segment, arguments, element) for element in arguments[name])
        return -(-max(map(self._of_element, every), default=0) // NEARLY) * NEARLY

    def _of_element(self, parts: list[int | str]) -> int:
        """Return the tokens of a segment with one element, counted once for equal ones."""
        key = tuple(parts)
        known = self._of_elements.get(key)
        if known is None:
            if len(self._of_elements) >= MOST_CLAIMS:
                self._of_elements.clear()
            known = self._of_elements[key] = len(encode_parts(self._tokenizer, parts))
        return known

    def _in_prompt(self, text: str) -> int:
        """Return how many tokens a text has in a prompt, if they were counted, or at most.

        Its first and last word may join what stands beside them, so they count as bytes; the
        words between stay as they are.
        """
        count = self._counts.get(text)
        if count is None or not text.strip():
            return UNBOUNDED
        return count + _bytes(text.split(maxsplit=1)[0]) + _bytes(text.rsplit(maxsplit=1)[-1]) + 2

    def _whole(self, size: int) -> int:
        return -(-size // self.limits.page_size) * self.limits.page_size

    def _tokens(self, segment: Operation, arguments: Mapping[str, Any]) -> int:
        """Return a segment's tokens, counted if there may be many."""
        parts = self._filled(segment, arguments)
        short = sum(1 if isinstance(part, int) else len(part.encode()) for part in parts) + 1
        return short if short <= SHORT else len(encode_parts(self._tokenizer, parts))


def _bytes(value: Any) -> int:
    return len(format_value(value).encode())


def _leading(function: Operation, parameters: Mapping[str, str]) -> Iterator[str]:
    """Yield the parameters that a program's prompt begins with, in order, up to anything else."""
    for operation in function.regions[0].operations:
        if operation.name == "plan.tokenize":
            for value in operation.operands:
                if value.name not in parameters:
                    return
                yield parameters[value.name]
        elif operation.name not in {"plan.tokens", "plan.extend", "program.constant"}:
            if operation.dialect == "plan":
                return


def _elements(function: Operation, parameters: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the values that are each element of a parameter in turn, with its name."""
    for operation in walk(function.regions[0].operations):
        if operation.name in {"plan.for", "plan.fork"}:
            place = operation.name == "plan.fork"
            name = parameters.get(operation.operands[place].name)
            if name is not None:
                yield operation.regions[0].arguments[place].name, name


class Admission:
    """The claims of the rows that are open, by ticket, of all sessions of an engine."""

    def __init__(self, kv: PagedKV, limits: Limits) -> None:
        self._kv, self._limits = kv, limits
        self.claims: dict[int, Claim] = {}
        self._claimed = 0
        self._unproven = 0

    def may_open(self, claim: Claim) -> bool:
        """Say whether a row may start now; one always may when none is open."""
        if not self.claims:
            return True
        if claim.proven:
            return not self._unproven and self._claimed + claim.pages <= self._kv.num_pages
        proven = len(self.claims) - self._unproven
        return not proven and self._kv.live < OPEN_BELOW * self._kv.num_pages

    def open(self, ticket: int, claim: Claim) -> None:
        """Count a row that starts."""
        self.claims[ticket] = claim
        self._count(claim, 1)

    def spare(self, ticket: int, tokens: int) -> None:
        """Count less for an open row: gens on its stream have ended so many tokens early."""
        claim = self.claims[ticket]
        self._count(claim, -1)
        self.open(ticket, claim.less(tokens, self._limits))

    def close(self, ticket: int) -> None:
        """Count a row that has ended."""
        self._count(self.claims.pop(ticket), -1)

    def _count(self, claim: Claim, change: int) -> None:
        self._claimed += change * claim.pages if claim.proven else 0
        self._unproven += change * (not claim.proven)


class in_prefix_order(Iterator[tuple[int, Any]]):  # noqa: N801
    """Yields jobs so that those whose prompts begin alike follow each other; looks `window` ahead.

    Jobs that have fewer than `shared` characters in common stay in their order: a page that is not
    computed twice is worth another order, a few tokens are not. Each window is given out whole
    before the next is read, so that no job waits for ever. `ahead` are the jobs of the window that
    are still to come.
    """

    def __init__(
        self, jobs: Iterable[tuple[int, Any]], forecast: Forecast, window: int, shared: int = SHARED
    ) -> None:
        self.ahead: deque[tuple[int, Any]] = deque()
        self._jobs, self._forecast, self._window = iter(jobs), forecast, window
        self._shared = shared
        self._prepared, self._fresh = 0, FIRST_FRESH

    def __next__(self) -> tuple[int, Any]:
        if not self.ahead:
            self.ahead.extend(self._grouped(islice(self._jobs, self._window)))
            self._prepared = 0
        if not self.ahead:
            raise StopIteration
        if not self._prepared:
            some = list(islice(self.ahead, PREPARED))
            rows = (arguments for _, arguments in some)
            self._prepared = self._forecast.prepare(rows, self._fresh)
            self._fresh = min(FRESH, 2 * self._fresh)
        self._prepared -= 1
        return self.ahead.popleft()

    def _grouped(self, jobs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yield jobs by what they share, groups in the order of their first job."""
        groups: dict[str, list[tuple[tuple[str, ...], int, Any]]] = {}
        for number, arguments in jobs:
            beginning = self._forecast.beginning(arguments)
            start = "\0".join(text[: self._shared] for text in beginning)[: self._shared]
            group = groups.setdefault(start, [])
            group.append((beginning, number, arguments))
        for group in groups.values():
            group.sort(key=lambda job: job[:2])
            yield from ((number, arguments) for _, number, arguments in group)
