"""Admission: how much KV memory a row may need, worked out before it starts, from its own values.

Every open row has a claim: the most pages that it holds, whatever the schedule and however long
its gens get. Rows start only while the claims of all open ones fit, so that no row ever has to
give pages back. A row whose claim is larger than the whole memory, or that nothing but the model's
context bounds, has no proof: it starts while the open ones use less than a share of the memory, and
may have to compute KV again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..ir.budget import UNBOUNDED, Budgets, Limits
from ..ir.core import Operation
from ..ir.values import format_value
from ..ir.vocabulary import Tokenizer, encode_parts
from .kv_cache import PagedKV

OPEN_BELOW = 0.7
"""Rows without a proof start while open ones use less than this share of the KV memory."""

AHEAD = (UNBOUNDED, 8, 4, 2, 1)
"""How many parts of one row may go side by side; the most that leaves room for all rows."""


@dataclass(frozen=True)
class Claim:
    """The most pages that a row may hold, with so many of its parts side by side."""

    pages: int
    ahead: int
    proven: bool = True


PREPARED = 32
"""Rows whose prompts are encoded at once."""

SEAM = 8
"""Tokens that a text may be more when others stand beside it: its first and last word may fall
into other ones."""


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
            for op in function.regions[0].operations
            if op.name == "plan.tokenize"
        }
        self._leading = tuple(_leading(function, self._parameters))
        self._counts: dict[str, int] = {}

    def claim(self, arguments: Mapping[str, Any]) -> Claim:
        """Return a row's claim, with as much of it side by side as leaves room for all rows.

        It is unproven without a budget, or when it exceeds the memory. So it is when nothing but
        the context bounds a stream, and that often does not fit: such bounds are hardly reached.
        """
        symbols = self._symbols(arguments)
        claim = Claim(self._num_pages, 2, proven=False)
        for ahead, budgets in self._budgets:
            peak = budgets.peak(self._name, symbols)
            pages, fit_all = max(1, peak.pages), peak.pages * self._most <= self._num_pages
            if pages <= self._num_pages and (peak.bounded or fit_all):
                claim = Claim(pages, ahead)
            if fit_all:
                break
        return claim

    def beginning(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts that a row's prompt begins with, as far as its values give them.

        Rows in the order of these stand in the order of a walk over the tree of their prompts.
        """
        return tuple(format_value(arguments[name]) for name in self._leading)

    def prepare(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Let the tokenizer encode what rows' prompts begin with, all at once if it can."""
        prepare = getattr(self._tokenizer, "prepare", None)
        first = next(iter(self._segments.values()), None)
        known = self._parameters
        if prepare is None or first is None:
            return
        if all(value.name in known for value in first.operands):
            rows = list(rows)
            prepare("".join(map(str, self._filled(first, row))) for row in rows)
            self._count(rows, [known[value.name] for value in first.operands])

    def _count(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Note how many tokens the rows' values are, each text once: fewer than its bytes."""
        texts = list(dict.fromkeys(format_value(row[name]) for row in rows for name in names))
        sizes = self._tokenizer.sizes(texts)  # type: ignore[attr-defined]
        self._counts = dict(zip(texts, sizes, strict=True))

    def _filled(self, segment: Operation, arguments: Mapping[str, Any]) -> list[int | str]:
        """Return a segment's parts with the values of a row."""
        values = [arguments[self._parameters[value.name]] for value in segment.operands]
        return [
            part if isinstance(part, int | str) else format_value(values[part["value"]])
            for part in segment["parts"]
        ]

    def _symbols(self, arguments: Mapping[str, Any]) -> Callable[[str], int]:
        known: dict[str, int] = {}

        def size(symbol: str) -> int:
            if symbol not in known:
                known[symbol] = self._size(symbol, arguments)
            return known[symbol]

        return size

    def _size(self, symbol: str, arguments: Mapping[str, Any]) -> int:
        what, name = symbol.split(" ", 1)
        if what == "tokens":
            return self._tokens(self._segments[name], arguments)
        value = arguments[name]
        if what == "bytes":
            text = format_value(value)
            size = len(text.encode())
            return min(size, self._counts[text] + SEAM) if text in self._counts else size
        if what == "count":
            return len(value)
        if what == "value":
            return max(0, int(value))
        return max((len(format_value(element).encode()) for element in value), default=0)

    def _tokens(self, segment: Operation, arguments: Mapping[str, Any]) -> int:
        return len(encode_parts(self._tokenizer, self._filled(segment, arguments)))


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


class Admission:
    """The claims of the rows that are open, of all sessions of an engine."""

    def __init__(self, kv: PagedKV) -> None:
        self._kv = kv
        self._claimed = 0
        self._proven = 0
        self._unproven = 0

    def may_open(self, claim: Claim) -> bool:
        """Say whether a row may start now; one always may when none is open."""
        if not self._proven and not self._unproven:
            return True
        if claim.proven:
            return not self._unproven and self._claimed + claim.pages <= self._kv.num_pages
        return not self._proven and self._kv.live < OPEN_BELOW * self._kv.num_pages

    def open(self, claim: Claim) -> None:
        """Count a row that starts."""
        self._claimed += claim.pages if claim.proven else 0
        self._proven += claim.proven
        self._unproven += not claim.proven

    def close(self, claim: Claim) -> None:
        """Count a row that has ended."""
        self._claimed -= claim.pages if claim.proven else 0
        self._proven -= claim.proven
        self._unproven -= not claim.proven


class in_prefix_order(Iterator[tuple[int, Any]]):  # noqa: N801
    """Yields jobs so that those whose prompts begin alike follow each other; looks `window` ahead.

    Each window is given out whole before the next is read, so that no job waits for ever. `ahead`
    are the jobs of the window that are still to come.
    """

    def __init__(self, jobs: Iterable[tuple[int, Any]], forecast: Forecast, window: int) -> None:
        self.ahead: deque[tuple[int, Any]] = deque()
        self._jobs, self._forecast, self._window = iter(jobs), forecast, window
        self._prepared = 0

    def __next__(self) -> tuple[int, Any]:
        if not self.ahead:
            found, forecast = islice(self._jobs, self._window), self._forecast
            self.ahead.extend(sorted(found, key=lambda job: (forecast.beginning(job[1]), job[0])))
            self._prepared = 0
        if not self.ahead:
            raise StopIteration
        if not self._prepared:
            some = list(islice(self.ahead, PREPARED))
            self._forecast.prepare(arguments for _, arguments in some)
            self._prepared = len(some)
        self._prepared -= 1
        return self.ahead.popleft()
