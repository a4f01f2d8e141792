"""What passes and the runtime need to know of a model's tokens and chat format, as protocols.

The frontend gives the real ones; tests give small ones. Texts and token ids meet here only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Part = int | str
"""A special token's id, or ordinary text."""

NO_OPTIONS = "a select chooses one of a list: write an if around it where the list may be empty"
"""What to do about a select whose list of options has none when it is run."""

EMPTY_OPTION = "a model scores tokens, so that an option needs one: a word for it, such as none"
"""The hint of every error about a select's empty option."""


class Tokenizer(Protocol):
    """Text to token ids and back, as the checkpoint means it."""

    @property
    def size(self) -> int:
        """The number of token ids (rows of the embedding may be more)."""
        ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: end of sequence, end of turn."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text: never decoded into a value, masked in constrained decoding."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return canonical ids of ordinary text: nothing in it is read as a special token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens give nothing, broken UTF-8 gives U+FFFD."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token; empty for a special token."""
        ...


@dataclass(frozen=True)
class Frame:
    """What a chat message puts before and after its content."""

    prefix: tuple[Part, ...]
    suffix: tuple[Part, ...]


class ChatFormat(Protocol):
    """Role markers of a checkpoint's chat template."""

    def start(self) -> tuple[Part, ...]:
        """Return what stands before the first message or text (often a begin token)."""
        ...

    def frame(self, previous_roles: tuple[str, ...], role: str) -> Frame:
        """Return the markers of a message of `role` after messages of `previous_roles`."""
        ...


def encode_parts(tokenizer: Tokenizer, parts: Sequence[Part]) -> list[int]:
    """Return the ids of parts: adjacent texts are joined first, so that tokens may span them."""
    ids: list[int] = []
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        ids += tokenizer.encode(text) if text else []
        ids.append(part)
        text = ""
    return ids + (tokenizer.encode(text) if text else [])


def common_length(first: list[int], second: list[int]) -> int:
    """Return how many ids two lists begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def shared_characters(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def split_heal(parts: Sequence[Part]) -> tuple[tuple[Part, ...], str]:
    """Take the trailing space of a run off it, before a gen or select.

    `Grade: ` and `B` would tokenize together as `Grade`, `:`, ` B`; the space is given back to
    the generation (token healing), which must then begin with it. Returns the run without the
    space, and the space (or an empty string).
    """
    if parts and isinstance(parts[-1], str) and parts[-1].endswith(" "):
        kept = parts[-1][:-1]
        return (*parts[:-1], *((kept,) if kept else ())), " "
    return tuple(parts), ""
