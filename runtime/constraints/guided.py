"""Constraints that are worked out while the program runs: a Matcher over llguidance."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask

from ...ir.constraints.regex import with_plain_sets
from ...ir.vocabulary import Tokenizer
from .matcher import BadConstraint

JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": '"\\',
}
"""One spelling for each value: `json.dumps` with default separators, no newline in a string."""

_SHORT = {"\n": "n", "\t": "t", "\r": "r", "\b": "b", "\f": "f"}
"""The escapes of control characters; the others are `u` and their number."""

_SET = re.compile(r"(?<!\\)(?:\\\\)*\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\s\S])")

WHAT = {"regex": "pattern", "json": "schema", "lark": "grammar"}
"""Kinds of constraints, as a user knows them."""


class GuidedMatcher:
    """A Matcher over llguidance.

    Where llguidance gives up, as a text has become too much for its limits, `problem` says so:
    any token may come then, and the text is complete with it. Its gen fails, and no other.
    """

    idle = False

    def __init__(self, inner: LLMatcher, what: str) -> None:
        self._inner = inner
        self._what = what

    @property
    def problem(self) -> BadConstraint | None:
        """What has gone wrong, if anything has."""
        if not self._inner.is_error():
            return None
        return BadConstraint(what=self._what, problem=self._inner.get_error().splitlines()[0])

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write the bitmask of allowed tokens into `masks[row]`."""
        fill_next_token_bitmask(self._inner, masks, row)
        if self._inner.is_error():
            masks[row] = -1

    def accept(self, token: int) -> None:
        """Advance by a token."""
        self._inner.consume_token(token)

    def forced(self) -> list[int]:
        """Return the tokens that must come next."""
        return [] if self._inner.is_error() else self._inner.compute_ff_tokens()

    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._inner.is_stopped() or self._inner.is_error()

    def fork(self) -> GuidedMatcher:
        """Return an independent copy."""
        return GuidedMatcher(self._inner.deep_copy(), self._what)


HINTS = {
    "Unimplemented keys": "leave these out: what they demand is not known until the text is whole; "
    "a tool may check it then, in a loop `while ... up to N`",
    "look-around": "write a pattern without (?=...), (?!...), (?<=...) and (?<!...)",
    "lookarounds": "write a pattern without \\b and \\B: say what stands there",
    "backreferences": "write out what may stand there: no pattern refers to a group",
    "unrecognized flag": "write a pattern without flags, conditions and (?P=...)",
    "not present in a registry": "put the schema into this file, under $defs: none is fetched",
    "does not exist": "a $ref is '#/$defs/NAME', and $defs has NAME",
    "oneOf": "write anyOf, where no value fits two of them",
    "Unknown format": "leave the format out, or write a pattern",
    "Unsatisfiable": "no value fits: widen the bounds, or list what may come",
}
"""What to do about an error of llguidance, by a piece of its text."""


class GuidedConstraint:
    """A compiled constraint; its generations are forks of one matcher for each healed text."""

    def __init__(self, kind: str, source: Any, guide: LLTokenizer) -> None:
        self._starts = {heal: _start(kind, source, heal, guide) for heal in ("", " ")}

    def start(self, heal: str = "", opening: str = "") -> GuidedMatcher:
        """Return a fresh matcher after the text `heal`; nothing is moved to the prompt."""
        assert not opening
        return self._starts[heal].fork()


def _start(kind: str, source: Any, heal: str, guide: LLTokenizer) -> GuidedMatcher:
    inner = LLMatcher(guide, grammar_of(kind, source, heal))
    if inner.is_error():
        problem = inner.get_error()
        hint = next((hint for sign, hint in HINTS.items() if sign in problem), "")
        if kind == "regex":
            # Of what stands below, the reason; the rest shows a grammar that nobody wrote.
            first, *below = problem.splitlines()
            problem = " ".join([first, *(line for line in below if line.startswith("error: "))])
        raise BadConstraint(what=WHAT[kind], problem=problem, hint=hint)
    # The first mask says now, when a place is known, that no text fits; a copy keeps `inner` fresh.
    first = inner.deep_copy()
    first.compute_bitmask()
    if first.is_error():
        problem = f"no text fits it ({first.get_error().splitlines()[0]})"
        raise BadConstraint(what=WHAT[kind], problem=problem)
    return GuidedMatcher(inner, WHAT[kind])


def grammar_of(kind: str, source: Any, heal: str = "") -> str:
    """Return llguidance's grammar of a regex, a JSON schema or a grammar, after `heal`."""
    if kind == "regex":
        source = with_plain_sets(source)
        return LLMatcher.grammar_from_regex(f"{heal}(?:{source})" if heal else source)
    if kind == "lark":
        return f"start: {json.dumps(heal)} body\nbody: %lark {{\n{source}\n}}" if heal else source
    if kind != "json":
        raise BadConstraint(what="constraint", problem=f"its kind is {kind!r}, none of {[*WHAT]}")
    schema = json.loads(source) if isinstance(source, str) else source
    options = _options(schema)
    if heal:
        schema = schema | {"x-guidance": options}
        return LLMatcher.grammar_from_lark(
            f"start: {json.dumps(heal)} value\nvalue: %json {json.dumps(schema)}"
        )
    try:
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadConstraint(what=WHAT[kind], problem=str(error)) from None


def _options(schema: Any) -> dict[str, Any]:
    """Return how llguidance is to spell a schema's values.

    A character that it may not escape it leaves out, so what a schema lists has its escapes.
    """
    controls = {c for text in _listed(schema) for c in text if ord(c) < 0x20 or ord(c) == 0x7F}
    escapes = sorted({_SHORT.get(control, "u") for control in controls})
    return JSON_OPTIONS | {"json_allowed_escapes": '"\\' + "".join(escapes)}


def _listed(schema: Any, inside: bool = False) -> Iterator[str]:
    """Yield the texts of a schema's `const` and `enum` values, and what its patterns write out."""
    if isinstance(schema, str) and inside:
        yield schema
    elif isinstance(schema, list):
        for one in schema:
            yield from _listed(one, inside)
    elif isinstance(schema, dict):
        for name, one in schema.items():
            if name == "pattern" and isinstance(one, str):
                yield _written_out(one)
            yield from _listed(one, inside or name in {"const", "enum"})


def _written_out(pattern: str) -> str:
    """Return a pattern outside of its sets, the control characters in it as themselves."""
    return _ESCAPE.sub(lambda found: _meant(found[1]), _SET.sub("", pattern))


def _meant(escape: str) -> str:
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}.get(escape, "")


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
        ids = self._tokenizer.encode(text)
        if b"".join(self._tokenizer.token_bytes(id) for id in ids) == text.encode():
            return ids
        return [self._byte_ids[byte] for byte in text.encode()]  # it composes letters (NFC)

    @cached_property
    def _byte_ids(self) -> list[int]:
        """The token of each byte."""
        found = {word: id for id, word in enumerate(self.tokens) if len(word) == 1}
        return [found.get(bytes((byte,)), self.eos_token_id) for byte in range(256)]
