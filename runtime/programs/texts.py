"""What rows send is encoded side by side, where many of them go on at once.

One by one texts take a tokenizer twice as long on one core, and there are more. So a task whose
texts are not encoded says so (`Unencoded`) and waits until the others have come as far: what they
all wait for is encoded in one call. Each then asks for its own texts; one that comes to ask for
others, as its stream has gone on meanwhile, has these encoded at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.vocabulary import Part, Tokenizer
from ..constraints.heal import join_texts

PORTION = 32
"""Tasks whose texts are encoded at once: a step begins with those that are there."""


@dataclass(eq=False, slots=True)
class Unencoded:
    """Texts that a task needs the ids of, which it then finds in `Texts`."""

    texts: list[str]


class Texts:
    """The ids of texts by a tokenizer, which may be able to encode many at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._one: Callable[[str], Any] = getattr(tokenizer, "encode_array", tokenizer.encode)
        self._many: Any = getattr(tokenizer, "encode_arrays", None)
        self._is_ready: Callable[[str], bool] = getattr(tokenizer, "is_ready", lambda text: True)
        self._latest: dict[str, np.ndarray] = {}

    def unencoded(self, parts: Iterable[Part]) -> list[str]:
        """Return those of some parts that are worth waiting for."""
        if self._many is None:
            return []
        return [part for part in parts if isinstance(part, str) and not self._is_ready(part)]

    def gather(self, texts: Iterable[str]) -> None:
        """Encode texts in one call, for those who ask for them next.

        Of texts that cannot be encoded whoever asks for one hears.
        """
        wanted = list(dict.fromkeys(texts))
        try:
            self._latest = dict(zip(wanted, self._many(wanted), strict=True))
        except Exception:
            self._latest = {}

    def ids(self, text: str) -> np.ndarray | list[int]:
        """Return a text's ids [n]."""
        known = self._latest.get(text)
        return self._one(text) if known is None else known

    def listed(self, text: str) -> list[int]:
        """Return the same ids as a list."""
        return np.asarray(self.ids(text)).tolist()

    def ids_of(self, parts: Sequence[Part]) -> np.ndarray:
        """Return the ids [n] i32 of parts; adjacent texts are encoded as one."""
        pieces: list[Any] = []
        known: list[int] | None = None
        for part in join_texts(parts):
            if isinstance(part, str):
                pieces.append(self.ids(part))
                known = None
            elif known is None:
                pieces.append(known := [part])
            else:
                known.append(part)
        if len(pieces) == 1:
            return np.asarray(pieces[0], np.int32)
        return np.concatenate(pieces, dtype=np.int32, casting="unsafe") if pieces else NOTHING


NOTHING = np.empty(0, np.int32)
