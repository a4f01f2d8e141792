"""What constrains generated tokens: which may come next, which must, when the text is complete."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...ir.diagnostics import RunError


class BadConstraint(RunError):
    """A constraint that cannot be compiled, or is too large to be followed."""

    template = "the {what} cannot be followed: {problem}"


class Matcher(Protocol):
    """The state of one constrained generation."""

    @property
    def idle(self) -> bool:
        """Whether everything is allowed from now on, so that nobody need ask again."""
        ...

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write the bitmask of allowed tokens into `masks[row]` (int32 words)."""
        ...

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allows."""
        ...

    def forced(self) -> list[int]:
        """Return the tokens that must come next, canonically tokenized; does not advance."""
        ...

    def is_complete(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        ...

    def fork(self) -> Matcher:
        """Return an independent copy."""
        ...


class Constraint(Protocol):
    """A compiled constraint."""

    def start(self, heal: str = "", opening: str = "") -> Matcher:
        """Return a matcher of texts after `heal`, of which `opening` is in the prompt already."""
        ...
