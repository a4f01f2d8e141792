"""The token tables of one vocabulary's constraints: compiled once, kept, found again by content."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Protocol

from ..core import Operation, Term
from ..vocabulary import Tokenizer
from .automaton import START, NotRegular
from .token_table import VERSION, TokenTable, token_table
from .token_trie import TokenTrie

_PROBE = 'It\'s  A2\n\n{"a": [1, -0.5], "é": "中\\\\"}\n ab'
_LEFT = b"left "
_known: dict[str, TokenTable | str] = {}
"""What this process has compiled or loaded, by key; a text says why there is no table."""

_MOST_KNOWN = 256


class Store(Protocol):
    """Where tables outlive the process."""

    def find(self, key: str) -> bytes | None:
        """Return what was put under a key, whole, or None."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key."""
        ...


class ConstraintTables:
    """Compiles constraints for a tokenizer, or finds them in the process or in a store."""

    def __init__(self, tokenizer: Tokenizer, store: Store | None = None) -> None:
        self._tokenizer = tokenizer
        self._store = store
        self.by_key: dict[str, TokenTable] = {}
        self.compiled = 0
        """How many constraints had to be compiled: those that neither process nor store had."""

    def key(self, kind: str, source: Any, stops: tuple[str, ...] = ()) -> str:
        """Return the content address of a constraint's table."""
        whole = hashlib.sha256()
        for part in (VERSION, self._vocabulary, kind, str(source), *stops):
            whole.update(len(part).to_bytes(8, "little") + part.encode())
        return whole.hexdigest()[:24]

    def find(self, kind: str, source: Any, stops: tuple[str, ...] = ()) -> TokenTable | str:
        """Return the table of a constraint that stop strings may end, or why it has none."""
        key = self.key(kind, source, stops)
        found = _known.get(key)
        if found is None:
            found = self._stored(key) or self._compile(key, kind, source, stops)
            while len(_known) >= _MOST_KNOWN:
                _known.pop(next(iter(_known)))
            _known[key] = found
        if isinstance(found, TokenTable):
            self.by_key[key] = found
        return found

    @cached_property
    def trie(self) -> TokenTrie:
        """The vocabulary, made when first needed."""
        return TokenTrie.of(self._tokenizer)

    def _stored(self, key: str) -> TokenTable | str | None:
        data = self._store.find(key) if self._store is not None else None
        if data is None:
            return None
        if data.startswith(_LEFT):
            return data.removeprefix(_LEFT).decode("utf-8", "replace")
        try:
            return TokenTable.from_bytes(data)
        except ValueError:
            return None

    def _compile(
        self, key: str, kind: str, source: Any, stops: tuple[str, ...]
    ) -> TokenTable | str:
        self.compiled += 1
        try:
            found: TokenTable | str = token_table(kind, source, self._tokenizer, self.trie, stops)
        except NotRegular as reason:
            found = str(reason)
        if self._store is not None:
            data = _LEFT + found.encode() if isinstance(found, str) else found.to_bytes()
            self._store.put(key, data)
        return found

    @cached_property
    def _vocabulary(self) -> str:
        """A name of everything that the tokenizer decides."""
        tokenizer = self._tokenizer
        digest = getattr(tokenizer, "digest", None) or self.trie.digest
        special = sorted(tokenizer.special_ids)
        return repr((digest, tokenizer.size, tokenizer.end_ids, special, tokenizer.encode(_PROBE)))


def stop_strings(gen: Operation) -> tuple[str, ...]:
    """Return the stop strings of a gen, sorted; a stop pattern is none of them."""
    stop = gen.attribute("stop") or ()
    if isinstance(stop, Term):
        return ()
    return tuple(sorted({stop} if isinstance(stop, str) else {text for text in stop if text}))


def opening_of(gen: Operation, table: TokenTable, tokenizer: Tokenizer) -> tuple[str, int]:
    """Return the text that a gen is bound to begin with, and how many tokens that is.

    It becomes part of the prompt. Nothing does where the whole text is forced, where a stop string
    or log-probabilities need every token of the gen, or where the budget ends inside.
    """
    ids = table.forced_tokens(START)
    data = b"".join(tokenizer.token_bytes(i) for i in ids)
    needed = gen.attribute("stop") or gen.attribute("logprobs")
    if needed or len(ids) >= gen["max_tokens"] or table.ends(table.walk(data)):
        return "", 0
    try:
        return data.decode(), len(ids)
    except UnicodeDecodeError:
        return "", 0
