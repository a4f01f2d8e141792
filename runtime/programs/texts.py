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
        texts = (part for part in parts if part and isinstance(part, str))
        return [text for text in texts if not self._is_ready(text)]

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
        """Return the ids [n] i32 of parts, of which no two texts stand side by side."""
        pieces: list[Any] = []
        after = 0
        for at, part in enumerate(parts):
            if isinstance(part, str):
                if after < at:
                    pieces.append(parts[after:at])
                if part:
                    pieces.append(self.ids(part))
                after = at + 1
        if after < len(parts):
            pieces.append(parts[after:])
        if len(pieces) == 1:
            return np.asarray(pieces[0], np.int32)
        return np.concatenate(pieces, dtype=np.int32, casting="unsafe") if pieces else NOTHING


NOTHING = np.empty(0, np.int32)
