"""Where pages of expert weights lie, and what one layer's placement says.

A page is a slice of one expert's hidden width F: with S pages an expert it holds F / S rows of
gate and up, and the F / S columns of down that go with them. An expert's output is the sum over
its pages, so each page can be computed wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ..ir.diagnostics import WeftError


class PolicyError(WeftError):
    """A policy that contradicts itself, or text that is no policy."""

    kind = "policy error"
    template = "{where}: {problem}"


class Home(StrEnum):
    """Where a page of expert weights lies, and so where it is computed; the value is its letter."""

    RESIDENT = "r"
    """In GPU memory for good; computed there."""
    STREAMED = "s"
    """In host memory; copied to a slot of the GPU's ring for each step, and computed there."""
    CPU = "c"
    """In host memory; computed by the CPU (its expert's F_g is less than 1)."""
    DISK = "d"
    """On disk; read into host memory and on to the GPU's ring for each step."""


ON_GPU = frozenset({Home.RESIDENT, Home.STREAMED, Home.DISK})
"""Homes whose pages the GPU computes."""

RINGED = frozenset({Home.STREAMED, Home.DISK})
"""Homes whose pages pass through the ring."""


@dataclass(frozen=True)
class Placement:
    """The homes of one layer's pages, a letter a page; page p belongs to expert p // S."""

    homes: str

    def __post_init__(self) -> None:
        for page, letter in enumerate(self.homes):
            if letter not in set(Home):
                known = ", ".join(f"{home.value} ({home.name.lower()})" for home in Home)
                raise PolicyError(
                    where=f"page {page}", problem=f"no home has the letter {letter!r}",
                    hint=f"homes are: {known}",
                )  # fmt: skip

    @staticmethod
    def counts(*, resident: int = 0, streamed: int = 0, cpu: int = 0, disk: int = 0) -> Placement:
        """Return a placement of so many pages each, in this order of page numbers."""
        return Placement("r" * resident + "s" * streamed + "c" * cpu + "d" * disk)

    @staticmethod
    def sets(
        pages: int,
        *,
        resident: Iterable[int] = (),
        cpu: Iterable[int] = (),
        disk: Iterable[int] = (),
    ) -> Placement:
        """Return a placement of `pages` pages from sets of page numbers; the rest is streamed."""
        homes = [Home.STREAMED.value] * pages
        named = ((Home.RESIDENT, resident), (Home.CPU, cpu), (Home.DISK, disk))
        for home, numbers in named:
            for number in numbers:
                if not 0 <= number < pages:
                    raise PolicyError(
                        where=f"page {number}", problem=f"the layer has pages 0 to {pages - 1}"
                    )
                if homes[number] != Home.STREAMED.value:
                    raise PolicyError(where=f"page {number}", problem="it is given two homes")
                homes[number] = home.value
        return Placement("".join(homes))

    def __len__(self) -> int:
        return len(self.homes)

    def pages(self, *homes: Home) -> tuple[int, ...]:
        """Return the page numbers with one of these homes, in order."""
        letters = {home.value for home in homes}
        return tuple(page for page, letter in enumerate(self.homes) if letter in letters)

    def home(self, page: int) -> Home:
        """Return the home of one page."""
        return Home(self.homes[page])

    @property
    def resident(self) -> tuple[int, ...]:
        """Pages that stay in GPU memory."""
        return self.pages(Home.RESIDENT)

    @property
    def streamed(self) -> tuple[int, ...]:
        """Pages that are copied from host memory for each step."""
        return self.pages(Home.STREAMED)

    @property
    def cpu(self) -> tuple[int, ...]:
        """Pages that the CPU computes."""
        return self.pages(Home.CPU)

    @property
    def disk(self) -> tuple[int, ...]:
        """Pages that are read from disk for each step."""
        return self.pages(Home.DISK)

    @property
    def ringed(self) -> tuple[int, ...]:
        """Pages that pass through the GPU's ring: streamed ones and those on disk."""
        return self.pages(*RINGED)
