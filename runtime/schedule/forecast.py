"""How much KV memory a row may need, worked out before it starts, from its own values.

Texts are counted in tokens where the tokenizer can encode what many rows' prompts begin with at
once, and in bytes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...ir.budget import UNBOUNDED, Budgets, Limits
from ...ir.core import Operation, walk
from ...ir.values import format_value
from ...ir.vocabulary import Tokenizer, encode_parts, shared_characters, split_heal
from .admission import Claim

AHEAD = (UNBOUNDED, 8, 4, 2, 1)
"""How many parts of one row may go side by side; the most that leaves room for all rows that must
have it (`PARTS`)."""

PARTS = 4
"""Parts of rows, and rows where there are as many, for each sequence that a step takes: they keep
steps full though some wait, and the last rows need not begin when others have ended. With room for
16 rows of one part each, for 16 sequences, `panel` took 53 steps, and 42 where no row had a proof;
with room for 23 of 24 rows `self_consistency` took 1.47 times as long."""

UNPROVEN_AHEAD = 8
"""The same for a row without a proof, whose memory nobody knows."""

FRESH = 1 << 15
"""Characters that are encoded at once: some milliseconds on one core."""

MOST_CLAIMS = 1 << 14
"""Claims that are remembered, by the sizes that they follow from."""

SHORT = 64
"""Bytes up to which a text's tokens are not counted to be sure that they are fewer."""

OF_BOUND = 0.75
"""The share that a row is guessed to take of the most that its own stream may get, before a row
has shown it: gens mostly end sooner."""

BYTES_A_TOKEN = 4
"""About so many bytes of text are a token."""

ASKS = frozenset({"plan.decode", "plan.select", "plan.score"})
"""Operations that take the space at the end of a text, so that it is encoded with what follows."""

LARGE = 10**31
"""Whole numbers from here on are longer than a budget counts a row's number (32 bytes)."""

NEARLY = 4
"""What tokens of an element are rounded up to, so that claims of many rows agree."""


@dataclass(frozen=True)
class Run:
    """A text that is encoded in one piece, and where in it values stand."""

    text: str
    values: tuple[tuple[int, int], ...]
    asked: str
    """What is encoded of it: a space at its end goes to what the model is asked behind it."""


def held_rows(fit: int, batch: int) -> int | None:
    """Return how many rows may be given at once and be held to a proof that `fit` do, in whatever
    schedule, where a step takes `batch` sequences; None: any number."""
    if fit >= PARTS * batch:
        return None
    return max((rows for rows in range(1, fit + 1) if _many(rows, batch) <= fit), default=0)


def _many(rows: int | None, batch: int) -> int:
    """Return for how many rows there must be room, rounded up, so that claims that were worked out
    can be used again."""
    if rows is not None and rows <= batch:
        return min(batch, 1 << (rows - 1).bit_length())
    step = max(1, batch // 4)
    most = PARTS * batch
    return most if rows is None else min(most, -(-rows // step) * step)


class Forecast:
    """Works out rows' claims, where a step takes `most` sequences."""

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
        self._first = next(iter(self._segments.values()), None)
        self._asks = _asks(function, self._first)
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

        It is unproven without a budget, and when so many rows with such claims do not fit, or too
        few to keep steps full.
        """
        if any(type(value) is int and abs(value) >= LARGE for value in arguments.values()):
            return Claim(
                self._num_pages, UNPROVEN_AHEAD, proven=False, guess=self._guess(arguments)
            )
        sizes = (("rows", _many(rows, self._most)), *self._sizes(arguments))
        claim = self._claims.get(sizes)
        if claim is None:
            if len(self._claims) >= MOST_CLAIMS:
                self._claims.clear()
            claim = self._claims[sizes] = self._claim(dict(sizes))
        if claim.proven:
            return claim
        return replace(claim, guess=max(claim.guess, self._guess(arguments)))

    def _guess(self, arguments: Mapping[str, Any]) -> float:
        """Return the pages of a row that reads all its arguments, and writes as much again."""
        size = sum(_bytes(value) for value in arguments.values())
        return 2 * size / BYTES_A_TOKEN / self.limits.page_size

    def _claim(self, sizes: Mapping[str, int]) -> Claim:
        symbols, most, own = sizes.__getitem__, sizes["rows"], 0
        for ahead, budgets in self._budgets:
            peak = budgets.peak(self._name, symbols)
            if peak.pages * self._rows(most, ahead) <= self._num_pages:
                return Claim(max(1, peak.pages), ahead, tokens=peak.wanted)
            own = peak.own if peak.own < self.limits.pages(self.limits.context) else 0
            # However few parts go side by side, the stream stays.
            if peak.own * most > self._num_pages:
                break
        return Claim(self._num_pages, UNPROVEN_AHEAD, proven=False, guess=OF_BOUND * own)

    def _rows(self, rows: int, ahead: int) -> int:
        """Return how many of such rows must have room, with so many parts of each side by side, if
        so many `rows` are open or to come."""
        return rows if rows < self._most else max(rows, PARTS * self._most // ahead)

    def beginning(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts that a row's prompt begins with, as far as its values give them.

        Rows in the order of these stand in the order of a walk over the tree of their prompts.
        """
        return tuple(format_value(arguments[name]) for name in self._leading)

    def prepare(self, rows: Iterable[Mapping[str, Any]], most: int = FRESH) -> int:
        """Let the tokenizer encode what rows' prompts begin with, all at once if it can, and the
        options among which the model chooses behind that.

        Return for how many rows: as many as have `most` characters that no prompt before has.
        """
        prepare, first = getattr(self._tokenizer, "prepare", None), self._first
        known = self._parameters
        if prepare is None or first is None:
            return sum(1 for _ in rows)
        if not all(value.name in known for value in first.operands):
            return sum(1 for _ in rows)
        runs: list[list[Run]] = []
        options: list[str] = []
        fresh, before = 0, ""
        for row in rows:
            runs.append(list(self._runs(first, row)))
            text = "".join(run.text for run in runs[-1])
            chosen = self._options(row, text)
            options += chosen
            fresh += len(text) - shared_characters(before, text) + sum(map(len, chosen))
            before = text
            if fresh >= most:
                break
        # Prompts stand one behind the other, and last: what comes next is compared with them.
        prepare([*options, *(run.asked for row in runs for run in row)])
        self._count(run for row in runs for run in row)
        return len(runs)

    def _options(self, row: Mapping[str, Any], text: str) -> list[str]:
        """Return the options of a select behind a row's first segment, as it encodes them."""
        asks = self._asks
        if asks is None or asks.name != "plan.select" or asks.attribute("tokens") is not None:
            return []
        name = self._parameters.get(asks.operands[1].name)
        return [] if name is None else [split_heal((text,))[1] + option for option in row[name]]

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
                    there = min(end, len(run.asked))
                    count = self._tokenizer.tokens_in(run.asked, start, there)  # type: ignore[attr-defined]
                    if count is not None:
                        self._counts[text] = count

    def _runs(self, segment: Operation, arguments: Mapping[str, Any]) -> Iterator[Run]:
        """Yield the texts between a segment's special tokens, as they are encoded."""
        text, values = "", []
        parts = [*zip(segment["parts"], self._filled(segment, arguments), strict=True), (0, 0)]
        for number, (part, filled) in enumerate(parts, 1):
            if isinstance(filled, str):
                if not isinstance(part, str):
                    values.append((len(text), len(text) + len(filled)))
                text += filled
            else:
                if text:
                    heals = number == len(parts) and self._asks is not None
                    yield Run(text, tuple(values), _healed(text) if heals else text)
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


def _healed(text: str) -> str:
    kept, _ = split_heal((text,))
    return str(kept[0]) if kept else ""


def _asks(function: Operation, segment: Operation | None) -> Operation | None:
    """Return what the model is asked right behind a segment, if that takes a space at its end."""
    stream: str | None = None
    for operation in function.regions[0].operations:
        names = [value.name for value in operation.operands]
        if stream is None:
            if operation.name == "plan.extend" and segment and names[-1] == segment.result.name:
                stream = operation.result.name
        elif stream in names:
            heals = not (operation.attribute("heal") or operation.attribute("forced"))
            return operation if operation.name in ASKS and heals else None
    return None


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
