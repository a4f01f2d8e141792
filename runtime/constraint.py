"""Constraints on generated tokens: what may come next, what must, and when the text is complete."""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask

from ..ir.core import Module, thaw
from ..ir.diagnostics import RunError
from ..ir.vocabulary import Tokenizer

JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\',
}
"""One spelling for each value: `json.dumps` with default separators, no newline in a string."""


class BadConstraint(RunError):
    """A constraint that cannot be compiled."""

    template = "constraint {name}: {problem}"


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


class GuidedMatcher:
    """A Matcher over llguidance."""

    idle = False

    def __init__(self, inner: LLMatcher, name: str) -> None:
        self._inner = inner
        self._name = name

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write the bitmask of allowed tokens into `masks[row]`."""
        fill_next_token_bitmask(self._inner, masks, row)
        self._check()

    def accept(self, token: int) -> None:
        """Advance by a token; raises BadConstraint if the constraint's limits are exceeded."""
        self._inner.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Return the tokens that must come next."""
        return self._inner.compute_ff_tokens()

    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._inner.is_stopped()

    def fork(self) -> GuidedMatcher:
        """Return an independent copy."""
        return GuidedMatcher(self._inner.deep_copy(), self._name)

    def _check(self) -> None:
        if self._inner.is_error():
            raise BadConstraint(name=self._name, problem=self._inner.get_error().splitlines()[0])


class ConstraintTable:
    """The compiled constraints of a plan, by name; a gen takes a fork of one."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: tuple[int, ...] = ()) -> None:
        self._guide: LLTokenizer | None = None
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ends = ends or tokenizer.end_ids
        self._compiled: dict[tuple[str, str], GuidedMatcher] = {}

    def add(self, name: str, kind: str, source: Any, heal: str = "") -> None:
        """Compile a constraint: a regex's pattern, or a JSON schema (text or dict).

        With `heal`, that text stands before it.
        """
        if self._guide is None:
            self._guide = guide(self._tokenizer, self._vocab_size, self._ends)
        inner = LLMatcher(self._guide, grammar_of(kind, source, name, heal))
        if inner.is_error():
            raise BadConstraint(name=name, problem=inner.get_error())
        self._compiled[name, heal] = GuidedMatcher(inner, name)

    def add_module(self, plan: Module) -> ConstraintTable:
        """Compile every `plan.constraint` of a module, also with a space before; return self."""
        for operation in plan.operations:
            if operation.name == "plan.constraint":
                name = _plain(operation["name"])
                for heal in ("", " "):
                    try:
                        self.add(name, operation["kind"], thaw(operation["source"]), heal)
                    except BadConstraint as error:
                        raise BadConstraint(**error.fields, span=operation.span) from None
        return self

    def start(self, name: object, heal: str = "") -> GuidedMatcher:
        """Return a fresh matcher of the constraint called `name`, after the text `heal`."""
        return self._compiled[_plain(name), heal].fork()


def grammar_of(kind: str, source: Any, name: str = "", heal: str = "") -> str:
    """Return llguidance's grammar of a regex, a JSON schema or a grammar, after `heal`."""
    if kind == "regex":
        return LLMatcher.grammar_from_regex(f"{heal}(?:{source})" if heal else source)
    if kind == "lark":
        return f"start: {json.dumps(heal)} body\nbody: %lark {{\n{source}\n}}" if heal else source
    if kind != "json":
        raise BadConstraint(name=name, problem=f"kind {kind!r} is none of regex, json and lark")
    text = source if isinstance(source, str) else json.dumps(source)
    if heal:
        schema = json.loads(text)
        schema["x-guidance"] = JSON_OPTIONS
        return LLMatcher.grammar_from_lark(
            f"start: {json.dumps(heal)} value\nvalue: %json {json.dumps(schema)}"
        )
    try:
        return LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadConstraint(name=name, problem=str(error)) from None


def guide(tokenizer: Tokenizer, vocab_size: int, ends: tuple[int, ...]) -> LLTokenizer:
    """Return llguidance's view of a tokenizer; rows past its size are never allowed."""
    return LLTokenizer(
        TokenizerWrapper(_Vocabulary(tokenizer, vocab_size, ends)),
        n_vocab=vocab_size,
        eos_token=list(ends),
    )


class _Vocabulary:
    """The shape of tokenizer that llguidance asks for."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: tuple[int, ...]) -> None:
        size = min(tokenizer.size, vocab_size)
        unused = range(size, vocab_size)
        self._tokenizer = tokenizer
        self.eos_token_id = ends[0]
        self.bos_token_id = None
        self.special_token_ids = sorted({*tokenizer.special_ids, *ends, *unused})
        special = set(self.special_token_ids)
        self.tokens = [
            b"<special %d>" % id if id in special else tokenizer.token_bytes(id)
            for id in range(vocab_size)
        ]

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return self._tokenizer.encode(text)


def _plain(name: object) -> str:
    return getattr(name, "name", None) or str(name)
