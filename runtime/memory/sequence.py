"""A sequence: the tokens of one stream of a program instance, and the pages of their KV."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Order = tuple[int, ...]
"""Age: (row, spawn number); smaller is older and goes first."""


ROOM = 64
"""Tokens that there is room for behind those with which a sequence begins."""


@dataclass(eq=False)
class Sequence:
    """Tokens with their pages.

    `tokens[:length]` is what the model sees or will see; the first `resident` of them have keys
    and values in `pages[:held]`. Only `PagedKV` changes `pages`, `held` and `resident` downwards.
    """

    capacity: int
    page_size: int
    order: Order = (0,)
    length: int = 0
    resident: int = 0
    held: int = 0
    tokens: np.ndarray = field(init=False, repr=False)
    pages: np.ndarray = field(init=False, repr=False)
    busy: bool = False
    """A request of the engine owns it just now."""
    fresh_from: int = 0
    """Length of the stream that it was forked from."""
    remembered: int = 0
    """Tokens that the prefix tree was given last, since it was last cut back."""

    origin: Sequence | None = None
    """That stream, if it is to hold what this one computes of its tokens."""

    reread_by: Sequence | None = None
    """That stream, until its tokens are computed: it reads them again if it goes on."""

    lent: int = 0
    """The step in which a fork last computed tokens for it."""

    place: tuple[Any, int] | None = None
    """The node of the prefix tree at which its way was last found, and where that began."""

    logged: tuple[Any, int, Any] | None = None
    """The edge of the log of prompts at which it was last found, where that begins, and the log."""

    number: int = 0
    """Tells sequences apart for as long as the memory lives."""

    def __post_init__(self) -> None:
        self.tokens = np.empty(ROOM, np.int32)
        self.pages = np.zeros(-(-self.capacity // self.page_size), np.int32)

    def begin(self, tokens: np.ndarray) -> None:
        """Take the first tokens of all, with room for some more."""
        self.length = len(tokens)
        if self.length + ROOM > len(self.tokens):
            self.tokens = np.empty(self.length + ROOM, np.int32)
        self.tokens[: self.length] = tokens

    def append(self, ids: Items[int] | np.ndarray) -> None:
        """Append tokens; their KV is computed by the next request."""
        count = len(ids)
        wanted = self.length + count
        if wanted > len(self.tokens):
            grown = np.empty(max(wanted, 2 * len(self.tokens)), np.int32)
            grown[: self.length] = self.tokens[: self.length]
            self.tokens = grown
        self.tokens[self.length : wanted] = ids
        self.length = wanted

    def cut(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        self.length = length
        if self.remembered > length:  # others may find what is cut off
            self.remembered, self.logged = length, None
        if self.place is not None and self.place[1] >= length:
            self.place = None
        if self.logged is not None and self.logged[1] >= length:
            self.logged = None

    @property
    def pending(self) -> int:
        """Tokens without KV."""
        return self.length - self.resident

    def ids(self) -> list[int]:
        """Return the tokens as a list."""
        return self.tokens[: self.length].tolist()
