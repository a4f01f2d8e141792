"""Questions answered under two attentions: the points lost, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NORMAL_95 = 1.96
"""How many standard errors lie on each side of a 95 % interval."""


@dataclass(frozen=True)
class Paired:
    """The same questions under dense attention and another: `lost` are those that only dense
    attention answers, `won` those that only the other does, of `asked`."""

    lost: int
    won: int
    asked: int

    @staticmethod
    def of(dense: Sequence[bool], other: Sequence[bool]) -> Paired:
        """Count two lists of answers, question by question."""
        pairs = list(zip(dense, other, strict=True))
        lost = sum(a and not b for a, b in pairs)
        return Paired(lost, sum(b and not a for a, b in pairs), len(pairs))

    @property
    def points(self) -> float:
        """Points lost: percent of the questions."""
        return 100 * (self.lost - self.won) / self.asked

    @property
    def error(self) -> float:
        """The standard error of `points`.

        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
        proportions": half a question is added to each of the four cells, so that it is not 0 where
        both answer alike.
        """
        asked, apart, net = self.asked + 2, self.lost + self.won + 1, self.lost - self.won
        return 100 * (apart - net * net / asked) ** 0.5 / asked

    def __str__(self) -> str:
        return f"{self.points:+.1f} ± {NORMAL_95 * self.error:.1f}"
