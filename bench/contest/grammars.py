"""Constraints as a server has them: compiled when first asked for, then cached by their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

from llguidance import LLMatcher
from weft.ir.core import Operation, Term
from weft.ir.vocabulary import Tokenizer
from weft.runtime.constraints.guided import WHAT, GuidedMatcher, grammar_of, guide

ConstraintOf = Callable[[Term, Mapping[str, Operation]], tuple[str, str] | None]


class Unforced(GuidedMatcher):
    """A matcher whose forced tokens are sampled like others, as SGLang and vLLM do."""

    def forced(self) -> list[int]:
        """Return nothing."""
        return []

    def fork(self) -> Unforced:
        """Return an independent copy."""
        return Unforced(self._inner.deep_copy(), self._what)


class Grammars:
    """Matchers by constraint; with `forced`, tokens without an alternative are not sampled."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, forced: bool = False) -> None:
        self.compile_seconds = 0.0
        self._guide = guide(tokenizer, vocab_size, tokenizer.end_ids)
        self._kind = GuidedMatcher if forced else Unforced
        self._known: dict[tuple[str, str, str], GuidedMatcher] = {}

    def start(self, kind: str, source: str, heal: str = "") -> GuidedMatcher:
        """Return a fresh matcher; a constraint that is new is compiled now."""
        key = kind, source, heal
        if key not in self._known:
            start = perf_counter()
            inner = LLMatcher(self._guide, grammar_of(kind, source, heal))
            self._known[key] = self._kind(inner, WHAT[kind])
            self.compile_seconds += perf_counter() - start
        return self._known[key].fork()
