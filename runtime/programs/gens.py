"""What is known of a gen before any row reaches it: looked at once, not for each row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...ir.core import Operation, Term
from ...ir.source import Span
from ..execution.sampler import site_key
from ..schedule.request import Sampling
from .bindings import stops_of
from .events import Path

STRUCTURED = frozenset({"record", "list", "schema"})
"""Types whose values are told in parts while they are generated."""


@dataclass(frozen=True, eq=False, slots=True)
class Gen:
    """A `plan.decode`: its attributes, and how its tokens are drawn."""

    operation: Operation
    name: str
    label: str
    """What messages call it."""
    type: Term
    is_text: bool
    """Whether its value is its text, whatever that is."""
    heal: str
    """What it must begin with, where the plan says so."""
    heals: bool
    """Whether a space at the end of its prompt is taken off, and it must begin with that."""
    forced: str
    stops: tuple[str, ...] | re.Pattern[str]
    watched: bool
    """Whether its tokens are looked at in any case: for stops, or a constraint."""
    logprobs: bool
    critical: int
    attention: str
    span: Span | None
    decides: tuple[Any, ...]
    """What of it decides its tokens, beside the stream, the sampling and the healed space."""
    _sampling: Sampling
    _seed: int | None

    @staticmethod
    def of(operation: Operation) -> Gen:
        """Return what a `plan.decode` says."""
        get, type, stops = operation.attribute, operation["type"], stops_of(operation)
        heal, forced = get("heal") or "", get("forced") or ""
        top_p = get("top_p")
        sampling = Sampling(
            max_tokens=operation["max_tokens"],
            temperature=float(get("temperature") or 0.0),
            top_k=int(get("top_k") or 0),
            top_p=1.0 if top_p is None else float(top_p),
            min_p=float(get("min_p") or 0.0),
            ends=tuple(get("ends") or ()),
        )
        attention, constraint = get("attention") or "", get("constraint")
        return Gen(
            operation, operation["name"], f"gen {operation['name']!r}", type, type.name == "str",
            heal, not heal and not forced, forced, stops, bool(stops) or constraint is not None,
            bool(get("logprobs")), get("critical") or 0, attention, operation.span,
            (constraint, get("stop"), attention), sampling, get("seed"),
        )  # fmt: skip

    @property
    def max_tokens(self) -> int:
        """Tokens that it generates at most."""
        return self._sampling.max_tokens

    def sampling(self, seed: int, row: int, path: Path, occurrence: int) -> Sampling:
        """Return how it draws for a row, or a branch of one, whose program has a seed.

        Where nothing is drawn at random, all rows have the same.
        """
        plain = self._sampling
        if not plain.temperature:
            return plain
        seed = seed if self._seed is None else self._seed
        key = site_key(seed, (row, *path), self.name, occurrence)
        return Sampling(
            plain.max_tokens, plain.temperature, plain.top_k, plain.top_p, plain.min_p, plain.ends,
            key,
        )  # fmt: skip
