"""What a plan's program holds in KV memory at most: its budget as data, and its value in pages.

A budget follows the program: a stream's tokens, and the parts that have sequences of their own
while they run (forks, calls, scored options). One after another counts as the largest, side by
side as the sum; a branch counts what its parent's full pages do not hold, the page that it copies
included. Sizes that only a row knows are symbols: `bytes x`, `text x` (its tokens in a prompt),
`count x` and `longest x` (elements, and the bytes of each), `value x`, `tokens x` (a segment's; of
one that stands in it for each element of a list, the most).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .core import Operation, thaw

Expr = int | str | tuple[Any, ...] | list[Any]
"""A number, a symbol, or (`+` | `*` | `max` | `min`, expressions)."""

UNBOUNDED = 1 << 40
"""Stands for a size that nothing bounds; a stream has at most the model's context."""

Symbols = Callable[[str], int]


@dataclass(frozen=True)
class Limits:
    """What the engine allows: tokens a page and a stream, and how many parts go side by side."""

    page_size: int
    context: int
    ahead: int = UNBOUNDED

    def pages(self, tokens: int) -> int:
        """Return the pages of a stream of its own."""
        return -(-tokens // self.page_size)

    def branch_pages(self, tokens: int) -> int:
        """Return the most pages that a branch adds to its parent's full ones.

        With L tokens above it: ceil((L + tokens) / P) - floor(L / P), at the worst L. A branch
        that adds nothing may be the last to hold a page that its parent has copied.
        """
        return max(1, -(-(tokens + self.page_size - 1) // self.page_size))

    def side_pages(self, width: int, longest: int) -> int:
        """Return the most pages of `width` sequences beside a stream, none longer than `longest`
        tokens or the context."""
        return min(width * self.branch_pages(min(longest, self.context)), UNBOUNDED)


def plus(*terms: Expr) -> Expr:
    """Return a sum; numbers are added at once."""
    flat: list[Expr] = []
    for term in terms:
        flat += term[1:] if isinstance(term, tuple) and term[0] == "+" else (term,)
    terms = tuple(flat)
    number = sum(term for term in terms if isinstance(term, int))
    rest = [term for term in terms if not isinstance(term, int)]
    if number >= UNBOUNDED or not rest:
        return min(number, UNBOUNDED)
    known = [number] if number else []
    return ("+", *known, *rest) if len(known) + len(rest) > 1 else rest[0]


def times(left: Expr, right: Expr) -> Expr:
    """Return a product."""
    if isinstance(left, int) and isinstance(right, int):
        return min(left * right, UNBOUNDED)
    if left == 0 or right == 0:
        return 0
    return right if left == 1 else left if right == 1 else ("*", left, right)


def largest(*terms: Expr) -> Expr:
    """Return a maximum."""
    number = max((term for term in terms if isinstance(term, int)), default=0)
    rest = list(dict.fromkeys(term for term in terms if not isinstance(term, int)))
    if number >= UNBOUNDED or not rest:
        return min(number, UNBOUNDED)
    known = [number] if number else []
    return ("max", *known, *rest) if len(known) + len(rest) > 1 else rest[0]


def replaced(expression: Expr, given: Mapping[str, Expr]) -> Expr:
    """Return an expression with others in place of its symbols; nothing bounds one that is not
    given."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return given.get(expression, UNBOUNDED)
    op, *terms = expression
    found = [replaced(term, given) for term in terms]
    if op == "+":
        return plus(*found)
    if op == "max":
        return largest(*found)
    return times(*found) if op == "*" else ("min", *found)


def value_of(expression: Expr, symbols: Symbols) -> int:
    """Return an expression's value."""
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return min(symbols(expression), UNBOUNDED)
    op, *terms = expression
    values = [value_of(term, symbols) for term in terms]
    if op in {"max", "min"}:
        return max(values) if op == "max" else min(values)
    if op == "+":
        return min(sum(values), UNBOUNDED)
    product = 1
    for value in values:
        product = min(product * value, UNBOUNDED)
    return product


@dataclass(frozen=True)
class Peak:
    """A frame's most pages: its stream's, and those of its parts that go side by side."""

    tokens: int
    own: int
    parts: tuple[Use, ...]
    pages: int
    branch: bool = False
    bounded: bool = True
    """Whether the program bounds its streams, and not only the model's context."""
    wanted: int = 0
    """Tokens of its stream where the model's context does not bound them."""
    above: int = -1
    """For a branch whose parent may not be resident: tokens above it, which it computes."""


@dataclass(frozen=True)
class Use:
    """A part: how often it may stand beside others, and its pages each time."""

    what: str
    times: int
    width: int
    pages: int
    kept: bool = False
    inner: Peak | None = None
    stretches: tuple[int, ...] = ()
    """Tokens of each of its sequences, where they are known."""
    longest: int = -1
    """Tokens of the longest of `width` sequences, where each one's are not known; else below 0."""


class Budgets:
    """The budgets of a plan's programs; gives the pages that one instance holds at most.

    What no symbol is in is worked out once.
    """

    def __init__(self, programs: Iterable[Operation], limits: Limits) -> None:
        self.limits = limits
        self.symbols: dict[str, tuple[str, ...]] = {}
        self._blocks: dict[str, Any] = {}
        for function in programs:
            name, block = function["name"].name, thaw(function["budget"])
            self._blocks[name] = block
            self.symbols[name] = tuple(dict.fromkeys(_symbols_in(block)))
        self._fixed: dict[int, Use | None] = {}
        self._depth = 0

    def peak(self, program: str, symbols: Symbols) -> Peak:
        """Return the most that one instance of a program holds, under every schedule."""
        return self._frame(self._blocks[program], symbols, None)

    def _frame(self, block: Any, symbols: Symbols, above: int | None, shared: bool = True) -> Peak:
        """Return a frame's peak; `above` is what its stream goes on from, None for a root."""
        limits = self.limits
        wanted = value_of(block["tokens"], symbols)
        tokens = min(wanted, limits.context)
        if above is None:
            own = limits.pages(tokens)
        elif shared:
            own = limits.branch_pages(tokens)
        else:
            own = max(1, limits.pages(min(above + tokens, limits.context)))
        uses = self._uses(block["parts"], symbols, ((above or 0), (above or 0) + tokens))
        pages = min(own + most_of(uses, limits.ahead), UNBOUNDED)
        whole = -1 if above is None or shared else above
        bounded = wanted <= limits.context and all(
            use.longest <= limits.context and (use.inner is None or use.inner.bounded)
            for use in uses
        )
        branch = above is not None
        return Peak(tokens, own, tuple(uses), pages, branch, bounded, wanted, whole)

    def _uses(self, parts: Any, symbols: Symbols, above: tuple[int, int]) -> list[Use]:
        """Return the parts of a frame whose stream is between so many tokens, `above`."""
        uses: list[Use] = []
        for part in parts:
            if "either" in part:
                sides = [self._uses(side, symbols, above) for side in part["either"]]
                if self.limits.ahead == UNBOUNDED:
                    sides = [max(sides, key=lambda side: most_of(side, UNBOUNDED))]
                uses += [use for side in sides for use in side]
            else:
                uses.append(self._use(part, symbols, above))
        return uses

    def _use(self, part: Any, symbols: Symbols, above: tuple[int, int]) -> Use:
        known = self._fixed.get(id(part))
        if known is None:
            known = self._evaluated(part, symbols, above)
            if id(part) not in self._fixed:
                needs_above = not all(_values_of(part, "shared")) or any(
                    isinstance(width, int) and width < 2 for width in _values_of(part, "width")
                )
                fixed = not needs_above and not any(_symbols_in(part))
                self._fixed[id(part)] = known if fixed else None
        return known

    def _evaluated(self, part: Any, symbols: Symbols, stream: tuple[int, int]) -> Use:
        base, above = stream
        often, inner, width, longest = value_of(part["times"], symbols), None, 1, -1
        if "body" in part:
            width = value_of(part["width"], symbols)
            # What one branch alone reads, its stream may not hold.
            shared = part["shared"] and width > 1
            if "above" in part:
                above = min(above, base + value_of(part["above"], symbols))
            inner = self._frame(part["body"], symbols, above, shared)
            pages = min(width * inner.pages, UNBOUNDED)
        elif "program" in part:
            inner = self._called(part, symbols)
            pages = inner.pages
        elif "stretches" in part:
            pages = sum(map(self.limits.branch_pages, part["stretches"]))
        else:
            width, longest = value_of(part["width"], symbols), value_of(part["stretch"], symbols)
            pages = self.limits.side_pages(width, longest)
        kept = "kept" in part
        often = min(often, 2) if kept else often
        lengths = tuple(part.get("stretches", ()))
        return Use(part["what"], often, width, pages, kept, inner, lengths, longest)

    def _called(self, part: Any, symbols: Symbols) -> Peak:
        if self._depth > 32:
            return Peak(UNBOUNDED, UNBOUNDED, (), UNBOUNDED, bounded=False)
        given = {key: value_of(size, symbols) for key, size in part["given"].items()}
        self._depth += 1
        block = self._blocks[part["program"].name]
        found = self._frame(block, lambda name: given.get(name, UNBOUNDED), None)
        self._depth -= 1
        return found


def _symbols_in(node: Any, key: str = "") -> Iterator[str]:
    """Yield the symbols of a budget's expressions."""
    if isinstance(node, dict):
        for name, inner in node.items():
            yield from _symbols_in(inner, name)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from _symbols_in(inner, key)
    elif isinstance(node, str) and key != "what" and " " in node:
        yield node


def _values_of(node: Any, key: str) -> Iterator[Any]:
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for inner in node.values():
            yield from _values_of(inner, key)
    elif isinstance(node, list | tuple):
        for inner in node:
            yield from _values_of(inner, key)


def most_of(uses: list[Use] | tuple[Use, ...], ahead: int) -> int:
    """Return the most pages of parts of which `ahead` go side by side; kept ones stay besides."""
    total = sum(min(use.pages * use.times, UNBOUNDED) for use in uses if use.kept)
    for use in sorted((use for use in uses if not use.kept), key=lambda use: -use.pages):
        count = min(use.times, ahead)
        total, ahead = min(total + count * use.pages, UNBOUNDED), ahead - count
        if not ahead:
            break
    return total
