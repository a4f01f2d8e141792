"""What a check does with an error: the first one ends it, or all of a file are gathered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..ir.diagnostics import WeftError


class Faults:
    """The errors of a file.

    Gathered, an expression that is wrong has any type from then on, so that the others are found
    and one mistake is told once.
    """

    def __init__(self, gather: bool = False) -> None:
        self.gather = gather
        self.found: list[WeftError] = []

    def report(self, error: WeftError) -> None:
        """Keep an error, or raise it where the first one ends the check."""
        if not self.gather:
            raise error
        if not self._known(error) and not (self.found and _of_any_type(error)):
            self.found.append(error)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Report what the block raises, and go on behind it."""
        try:
            yield
        except WeftError as error:
            if not self.gather:
                raise
            self.report(error)

    def _known(self, error: WeftError) -> bool:
        """Say whether the same was said of the place: what is declared may be read twice."""
        return any(error.span == one.span and error.message == one.message for one in self.found)


def in_order(errors: Iterable[WeftError]) -> list[WeftError]:
    """Return errors in the order of their places, those without one first."""
    return sorted(errors, key=lambda error: () if error.span is None else (error.span,))


def _of_any_type(error: WeftError) -> bool:
    """Say whether an error is of values that may have any type: once there are errors, those of
    one."""
    types: list[Any] = [error.fields.get(name, "") for name in ("have", "type")]
    return any(re.search(r"\bany\b", str(type)) for type in types)
