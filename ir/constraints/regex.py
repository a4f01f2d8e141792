r"""Regular expressions, in Python's notation, as expressions of `automaton`.

Groups, classes, `.`, `\d \w \s` (Unicode's, as in Python), bounded and unbounded repetition,
alternation; `^` and `$` at the ends, where they say nothing. What looks around, behind or back is
not regular; flags are left too.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from .automaton import Chars, Either, Expression, NotRegular, Repeat, Seq
from .utf8 import EVERY, Ranges, complement, union

Spell = Callable[[Ranges], Expression]
"""How one character of a set is written: as itself, or as JSON writes it inside a string."""

_CLASS = re.compile(r"\\.|\[(\^?)(\]?(?:\\.|[^\]\\])*)\]", re.DOTALL)
_ONE = r"\\(?:x..|u.{4}|U.{8}|N\{[^}]*\}|[0-7]{1,3}|.)|."
_IN_CLASS = re.compile(f"({_ONE})(?:-({_ONE}))?", re.DOTALL)
_OPERATORS = frozenset("[]&~-^")

_ANCHORS = {code.AT_BEGINNING, code.AT_BEGINNING_STRING}, {code.AT_END, code.AT_END_STRING}
_ASCII = {"d": "0-9", "w": "a-zA-Z0-9_", "s": r" \t-\r"}


def regex(pattern: str, spell: Spell = Chars, ascii: bool = False) -> Expression:
    """Return the expression of a pattern that the whole text must match; raises NotRegular.

    With `ascii`, `\\d \\w \\s` are the classes of JSON Schema's patterns.
    """
    tree = _parsed(pattern)
    if tree.state.flags & ~re.UNICODE:
        raise NotRegular("it has flags")
    return _Reader(spell, ascii).sequence(tree, True, True)


def is_whole(pattern: str) -> bool:
    """Say whether each alternative of a pattern begins with `^` and ends with `$`, so that where it
    is looked for in a text it matches all of that or nothing; raises NotRegular."""
    tree = _parsed(pattern)
    return _anchored(tree, 0) and _anchored(tree, -1)


def _anchored(items: Any, end: int) -> bool:
    """Say whether a sequence has an anchor at its first item (0) or its last one (-1)."""
    if not len(items):
        return False
    kind, value = items[end]
    if kind is code.BRANCH:
        return all(_anchored(one, end) for one in value[1])
    if kind is code.SUBPATTERN:
        return _anchored(value[3], end)
    return kind is code.AT and value in _ANCHORS[end]


def _parsed(pattern: str) -> Any:
    """Return the tree of a pattern in Python's notation; raises NotRegular."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what a set may mean some day
            return parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise NotRegular(f"it is not in Python's notation ({error})") from None


def with_plain_sets(pattern: str) -> str:
    """Return a pattern of Python's whose classes mean the same where `[[a]`, `[a&&b]`, `[a~~b]` and
    `[+--]` are operations on sets: there these are escaped."""

    def plain(one: str) -> str:
        return "\\" + one if one in _OPERATORS else one

    def item(found: re.Match[str]) -> str:
        return "-".join(plain(end) for end in found.groups() if end is not None)

    def whole(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        return f"[{found[1]}{_IN_CLASS.sub(item, found[2])}]"

    return _CLASS.sub(whole, pattern)


class _Reader:
    def __init__(self, spell: Spell, ascii: bool) -> None:
        self._spell, self._ascii = spell, ascii

    def sequence(self, items: Any, first: bool, last: bool) -> Expression:
        """`first` and `last`: whether the sequence begins and ends the whole text."""
        parts, items = [], list(items)
        while items and items[0][0] is code.AT and items[0][1] in _ANCHORS[0] and first:
            items.pop(0)
        while items and items[-1][0] is code.AT and items[-1][1] in _ANCHORS[1] and last:
            items.pop()
        for at, (kind, value) in enumerate(items):
            parts.append(self._item(kind, value, first and not at, last and at == len(items) - 1))
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _item(self, kind: Any, value: Any, first: bool, last: bool) -> Expression:
        if kind is code.LITERAL:
            return self._spell(union([(value, value)]))
        if kind is code.NOT_LITERAL:
            return self._spell(complement([(value, value)]))
        if kind is code.ANY:
            return self._spell(complement([(10, 10)]))
        if kind is code.IN:
            return self._spell(self._set(value))
        if kind is code.BRANCH:
            return Either(tuple(self.sequence(one, first, last) for one in value[1]))
        if kind is code.SUBPATTERN:
            _, more, fewer, inner = value
            if more or fewer:
                raise NotRegular("it has flags")
            return self.sequence(inner, first, last)
        if kind in (code.MAX_REPEAT, code.MIN_REPEAT):
            low, high, inner = value
            most = None if high is code.MAXREPEAT else int(high)
            return Repeat(self.sequence(inner, False, False), int(low), most)
        if kind is code.AT:
            raise NotRegular("it has an anchor that is not at its end")
        raise NotRegular(f"it has {str(kind).lower().replace('_', ' ')}")

    def _set(self, items: Iterable[tuple[Any, Any]]) -> Ranges:
        sets: list[Ranges] = []
        negated = False
        for kind, value in items:
            if kind is code.NEGATE:
                negated = True
            elif kind is code.LITERAL:
                sets.append(((value, value),))
            elif kind is code.RANGE:
                sets.append((tuple(value),))
            else:
                sets.append(self._category(str(value).lower()))
        return complement(union(*sets)) if negated else union(*sets)

    def _category(self, name: str) -> Ranges:
        letter = name.removeprefix("category_").removeprefix("not_")[0]
        found = category(f"[{_ASCII[letter]}]" if self._ascii else f"\\{letter}")
        return complement(found) if "not_" in name else found


@cache
def category(pattern: str) -> Ranges:
    """Return all code points that a pattern of one character matches."""
    every = "".join(map(chr, range(EVERY[0][1] + 1)))
    high = "".join(map(chr, range(EVERY[1][0], EVERY[1][1] + 1)))
    runs = re.compile(f"{pattern}+").finditer
    below = [(found.start(), found.end() - 1) for found in runs(every)]
    base = EVERY[1][0]
    return union(below, [(base + found.start(), base + found.end() - 1) for found in runs(high)])
