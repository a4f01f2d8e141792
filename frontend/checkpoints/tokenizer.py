"""A checkpoint's tokenizer: text to ids and back, and the bytes of every token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from ...ir.diagnostics import ModelError
from ..models.config import MissingFile, UnreadableFile, known_form, read_json
from .shared_texts import Encoded, SharedTexts

SPACE_MARK = "\u2581"  # the visible space of sentencepiece vocabularies

UTF8 = frozenset({*range(0xC0), *range(0xC2, 0xF5)})
"""The bytes that can stand in a text."""

MOST_READY = 1 << 20
"""Tokens of texts that are kept encoded for those who will ask for them."""


class UnsupportedTokenizer(ModelError):
    """A tokenizer whose tokens are not bytes of text."""

    template = "{file}: {problem}"
    hint = "supported are byte-level BPE and sentencepiece-style vocabularies with byte fallback"


class HubTokenizer:
    """Implements `ir.vocabulary.Tokenizer` over tokenizer.json; build it with `load_tokenizer`.

    The bytes of `encode(text)`'s tokens joined are the text's, so no dummy space is put before
    it: `first_text` is what the checkpoint puts before the first text of a sequence ("" or " ").
    `digest` names the file's content.
    """

    def __init__(self, data: dict[str, Any], end_ids: Sequence[int] = (), begin_id: int | None
                 = None, file: str = "tokenizer.json") -> None:  # fmt: skip
        self.first_text = " " if _drop_dummy_space(data) else ""
        self._byte_level = _has(data, "ByteLevel")
        if not self._byte_level and not (_has(data, "Replace") or _has(data, "Metaspace")):
            problem = f"a {data.get('model', {}).get('type')} vocabulary is not supported"
            raise UnsupportedTokenizer(file=file, problem=problem)
        try:
            text = json.dumps(data)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            self.digest = hashlib.sha256(text.encode()).hexdigest()
        except Exception as error:  # the library raises bare Exception
            raise UnreadableFile(file=file, problem=str(error)) from None
        self._tokenizer.encode_special_tokens = True  # text never holds special tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._added = {token["id"]: token for token in data.get("added_tokens", [])}
        self._special_ids = frozenset(id for id, t in self._added.items() if t["special"])
        self.end_ids = tuple(end_ids)
        self.begin_id = begin_id
        self._ready: dict[str, Encoded] = {}
        self._ready_tokens = 0

    @property
    def size(self) -> int:
        """The number of token ids: the largest id plus one."""
        return len(self._bytes)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text."""
        return self._special_ids

    @cached_property
    def special_texts(self) -> dict[str, int]:
        """How a chat template writes each special token."""
        return {token["content"]: id for id, token in self._added.items() if token["special"]}

    @cached_property
    def adds_begin(self) -> bool:
        """Whether the checkpoint's own tokenization of a prompt puts the begin token before it."""
        ids = self._tokenizer.encode("a", add_special_tokens=True).ids
        return self.begin_id is not None and ids[:1] == [self.begin_id]

    def lost_bytes(self) -> list[int]:
        """Return the bytes of UTF-8 that no token is for: texts that hold them lose them."""
        spelled = _BYTE_OF.items() if self._byte_level else ((f"<0x{b:02X}>", b) for b in UTF8)
        tokens = self._tokenizer
        return sorted(b for token, b in spelled if b in UTF8 and tokens.token_to_id(token) is None)

    def encode(self, text: str) -> list[int]:
        """Return ids of ordinary text; joined, the bytes of the tokens are the text's."""
        ready = self._ready.get(text)
        return ready.ids.tolist() if ready is not None else self._shared.ids(text)

    def encode_array(self, text: str) -> np.ndarray:
        """Return the same ids as an array [n] i32."""
        ready = self._ready.get(text)
        return ready.ids if ready is not None else np.array(self._shared.ids(text), np.int32)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, encoded side by side on all cores."""
        return self._shared.arrays(texts)

    def encode_words(self, text: str) -> list[int]:
        """Return the same ids as `encode`; words that came before are looked up, one by one."""
        return self._shared.by_words([text])[0]

    def encode_words_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return these of each text; new words of all of them are encoded together."""
        return self._shared.by_words(texts)

    def last_cut(self, text: str) -> int:
        """Return the last character before which a text is split, whatever follows it: what stands
        left and right of it is encoded apart. 0 where no such place is known."""
        return self._shared.last_cut(text)

    def is_ready(self, text: str) -> bool:
        """Whether `prepare` has encoded a text."""
        return text in self._ready

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode texts that will be asked for soon, side by side on all cores.

        What one begins with as the text before it did is encoded once. They are kept until
        `forget`: what a row claims, what it sends, and what is read again all ask for them.
        """
        wanted = [text for text in dict.fromkeys(texts) if text not in self._ready]
        if self._ready_tokens > MOST_READY:
            self.forget()
        encoded = self._shared.encode(wanted)
        self._ready |= zip(wanted, encoded, strict=True)
        self._ready_tokens += sum(len(one.ids) for one in encoded)

    def forget(self) -> None:
        """Let go of what `prepare` has encoded."""
        self._ready, self._ready_tokens = {}, 0

    def tokens_in(self, text: str, start: int, end: int) -> int | None:
        """Return how many tokens the characters [start, end) of a prepared text are part of."""
        ready = self._ready.get(text)
        return None if ready is None else ready.tokens_in(start, end)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens give nothing, broken UTF-8 gives U+FFFD."""
        known = map(self._known.get, ids, repeat(b""))  # an id that no token has gives none
        return b"".join(known).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one token; empty for a special token or an id without a token."""
        return self._bytes[id] if 0 <= id < len(self._bytes) else b""

    @cached_property
    def _shared(self) -> SharedTexts:
        ordinary = [token for token in self._added.values() if not token["special"]]
        whole = any(_takes_around(token) for token in ordinary)
        return SharedTexts(self._tokenizer, self._bytes, whole)

    @cached_property
    def _known(self) -> dict[int, bytes]:
        return dict(enumerate(self._bytes))

    @cached_property
    def _bytes(self) -> list[bytes]:
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, id in vocabulary.items():
            if id in self._added:
                text = "" if self._added[id]["special"] else self._added[id]["content"]
                table[id] = text.encode()
            else:
                table[id] = _byte_level(token) if self._byte_level else _sentencepiece(token)
        return table


def load_tokenizer(folder: str | Path) -> HubTokenizer:
    """Return the tokenizer of a checkpoint folder; raises ModelError."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.exists():
        hint = "weft needs the fast tokenizer's file; transformers' save_pretrained writes it"
        raise MissingFile(file=str(path), hint=hint)
    data, named = read_json(path), folder / "tokenizer_config.json"
    with known_form(path):
        ids = {token["content"]: token["id"] for token in data.get("added_tokens", [])}
    settings = _optional_json(named)
    with known_form(named):
        end, begin = (ids.get(_content(settings.get(name))) for name in ("eos_token", "bos_token"))
    end_ids = _end_ids(folder, end)
    with known_form(path):
        tokenizer = HubTokenizer(data, end_ids, begin, str(path))
    lost = tokenizer.lost_bytes()
    if lost:
        problem = f"no token is for the byte 0x{lost[0]:02X}"
        problem += f", nor for {len(lost) - 1} others" if lost[1:] else ""
        raise UnsupportedTokenizer(file=str(path), problem=f"{problem}: texts would lose them")
    return tokenizer


def _end_ids(folder: Path, end_of_text: int | None) -> tuple[int, ...]:
    """Join what generation_config, config and tokenizer_config call an end, in this order."""
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = _optional_json(folder / name).get("eos_token_id")
        with known_form(folder / name):
            found += [int(id) for id in (value if isinstance(value, list) else [value])
                      if id is not None]  # fmt: skip
    return tuple(dict.fromkeys([*found, *([] if end_of_text is None else [end_of_text])]))


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _content(token: Any) -> str:
    """A token in tokenizer_config.json is a string, or an object with its content."""
    return str(token["content"] if isinstance(token, dict) else token)


def _steps(data: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield every normalizer, pre-tokenizer and decoder, those in sequences too."""
    for part, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"),
                        ("decoder", "decoders")):  # fmt: skip
        step = data.get(part) or {}
        yield from [step, *step.get(inner, [])]


def _has(data: dict[str, Any], kind: str) -> bool:
    return any(step.get("type") == kind for step in _steps(data))


def _drop_dummy_space(data: dict[str, Any]) -> bool:
    """Take the space that is put before a text out of the tokenizer; return whether one was."""
    found = False
    for step in _steps({"pre_tokenizer": data.get("pre_tokenizer")}):
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            step["prepend_scheme"], found = "never", True
        if step.get("type") in {"Metaspace", "ByteLevel"} and step.get("add_prefix_space"):
            step["add_prefix_space"], found = False, True
    normalizer = data.get("normalizer") or {}
    if normalizer.get("type") == "Prepend":
        data["normalizer"], found = None, True
    steps = normalizer.get("normalizers", [])
    if any(step["type"] == "Prepend" for step in steps):
        normalizer["normalizers"] = [step for step in steps if step["type"] != "Prepend"]
        found = True
    return found


def _takes_around(token: dict[str, Any]) -> bool:
    """Whether an added token may touch a space between two letters: it is found before all else."""
    text = token["content"]
    strips = any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word", "normalized"))
    return strips or not text or any(end.isspace() or end.isalpha() for end in (text[0], text[-1]))


def _byte_level(token: str) -> bytes:
    """Undo GPT-2's printable spelling of bytes; a token in no such spelling stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE_MARK, " ").encode()


def _byte_of() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the others follow from code point 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _byte_of()
