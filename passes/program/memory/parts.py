"""Parts of a budget: forks, calls and scored options, as they stand in a program."""

from __future__ import annotations

from typing import Any

from ....ir.budget import Expr, plus, times


def behind(tokens: Expr, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return parts with so many more tokens above their forks."""
    return [
        {"either": [behind(tokens, side) for side in part["either"]]}
        if "either" in part
        else part | {"above": plus(tokens, part["above"])}
        if "above" in part
        else part
        for part in parts
    ]


def repeated(parts: list[dict[str, Any]], often: Expr) -> list[dict[str, Any]]:
    """Return parts of a loop that run so many times as often; all its rounds may be above them."""
    return [
        {"either": [repeated(side, often) for side in part["either"]]}
        if "either" in part
        else part
        | {"times": times(often, part["times"])}
        | ({"above": 0} if "above" in part else {})
        for part in parts
    ]


def stretches(options: Any) -> list[int]:
    """Return the lengths of what scoring a trie of options computes behind its prompt, apart.

    What all begin with goes on the stream itself; the others are sequences that it forks.
    """
    found: list[int] = []

    def walk(group: list[tuple[int, ...]], root: bool) -> None:
        by_first: dict[int, list[tuple[int, ...]]] = {}
        for option in group:
            if option:
                by_first.setdefault(option[0], []).append(option[1:])
        begins = root and len(by_first) == 1
        for rest in by_first.values():
            if not any(rest):
                continue
            length = 1
            while (
                len({option[0] for option in rest if option}) == 1
                and any(option[1:] for option in rest)
                and not (begins and not all(rest))
            ):
                rest = [option[1:] for option in rest if option]
                length += 1
            found.append(length)
            walk(rest, False)

    walk([tuple(option) for option in options], True)
    return found
