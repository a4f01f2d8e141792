"""Texts that begin alike get the ids that each gets by itself, and less is encoded."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from weft.frontend.checkpoints import shared_texts
from weft.frontend.checkpoints.shared_texts import PIECE, pieces_of
from weft.frontend.checkpoints.tokenizer import HubTokenizer

ZOO = Path(__file__).resolve().parents[2] / "zoo"
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA.replace("{1,3}", "")
WORDS = r"\p{L}+(?: \p{L}+)*| |[^\p{L} ]+"  # several words are one piece
STYLES = ("zoo", "gpt2", "llama", "qwen", "sentencepiece")


def split(pattern: str) -> dict[str, Any]:
    pieces = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
              "invert": False}  # fmt: skip
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}  # fmt: skip
    return {"type": "Sequence", "pretokenizers": [pieces, bytes_]}


def data(style: str) -> dict[str, Any]:
    """The zoo's merges under another family's rules; or a vocabulary of visible spaces."""
    if style == "sentencepiece":
        return sentencepiece(False)
    found = json.loads((ZOO / "tiny-dense" / "tokenizer.json").read_text())
    if style == "gpt2":
        found["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False,
                                  "trim_offsets": True, "use_regex": True}  # fmt: skip
    elif style != "zoo":
        patterns = {"llama": LLAMA, "qwen": QWEN, "words": WORDS}
        found["pre_tokenizer"] = split(patterns[style])
        found["model"]["ignore_merges"] = style == "llama"
        found["normalizer"] = {"type": "NFC"} if style == "qwen" else None
    return found


def sentencepiece(spanning: bool) -> dict[str, Any]:
    """BPE over whole texts with byte fallback; `spanning`: a token holds two words."""
    pairs = ["h e", "t he", "\u2581 the", "\u2581 a", "i n", "\u2581\u2581 \u2581"]
    pairs += ["\u2581 \u2581", "a n", "an d", "\u2581 and"]
    pairs += ["\u2581a \u2581the"] if spanning else []
    letters = [chr(code) for code in range(33, 127)] + ["\u2581", "\u2581\u2581"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = dict.fromkeys([*bytes_, *letters, *(pair.replace(" ", "") for pair in pairs)])
    pairs.sort(key=lambda pair: pair == "\u2581\u2581 \u2581")
    return {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": None, "post_processor": None,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "decoder": {"type": "ByteFallback"},
        "model": {"type": "BPE", "unk_token": None, "byte_fallback": True, "fuse_unk": False,
                  "vocab": {token: id for id, token in enumerate(tokens)}, "merges": pairs},
    }  # fmt: skip


@cache
def plain(style: str) -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer.from_str(json.dumps(data(style)))
    found.encode_special_tokens = True
    return found


@cache
def shared(style: str) -> HubTokenizer:
    return HubTokenizer(data(style))


ATOMS = (
    "the ", "and ", " a", "word", "In ", "it's", " I'll", "don't ", "  ", "\n", "\n\n", " \n", "\t",
    "42", "7", ", ", ". ", "...", "(", "é", "e\u0301", "\u4e2d\u6587", "\U0001f600", "<|bos|>", "x",
    "A b", "\r\n", "\u00a0", "-", " the end", '{"a": ', '", ', ' "', "[3], ", "7 ", " }", "' ",
)  # fmt: skip
pieces = st.lists(st.sampled_from(ATOMS), max_size=30).map("".join)
beginnings = st.lists(st.sampled_from(ATOMS), min_size=60, max_size=200).map("".join)


@pytest.mark.parametrize("style", STYLES)
@given(
    beginning=beginnings,
    rest=st.lists(st.tuples(st.floats(0, 1), pieces), min_size=1, max_size=6),
    batch=st.booleans(),
    piece=st.sampled_from((16, 60, PIECE)),
)
def test_ids_are_those_of_the_whole_text(style, beginning, rest, batch, piece):
    texts = [beginning[: int(share * len(beginning))] + piece for share, piece in rest]
    tokenizer = shared(style)
    with patch.object(shared_texts, "PIECE", piece):
        if batch:
            tokenizer.prepare(sorted(texts))
        tokenizer.encode_array(texts[0])
    for text in texts:
        expected = plain(style).encode(text, add_special_tokens=False).ids
        found = tokenizer.tokens_in(text, 0, len(text))
        assert found is None or found == len(expected)
        assert tokenizer.encode(text) == expected


@pytest.mark.parametrize("style", (*STYLES, "words"))
@given(text=pieces, more=pieces)
def test_words_that_are_looked_up_give_the_ids_of_the_whole_text(style, text, more):
    tokenizer, library = shared(style), plain(style)
    whole = library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_words(text) == whole
    with patch.object(shared_texts, "KNOWN_WORDS", 3):
        assert tokenizer.encode_words(text) == whole
    cut = tokenizer.last_cut(text)
    assert style != "words" or not cut
    if cut:
        left, right = (library.encode(part, add_special_tokens=False).ids
                       for part in (text[:cut], text[cut:] + more))  # fmt: skip
        assert library.encode(text + more, add_special_tokens=False).ids == left + right


class Counting:
    """A library's tokenizer that counts the characters that it is given."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner, self.characters, self.longest = inner, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_batch_fast(self, texts: list[str], **settings: Any) -> Any:
        self.characters += sum(map(len, texts))
        self.longest = max([self.longest, *map(len, texts)])
        return self._inner.encode_batch_fast(texts, **settings)


def counted(style: dict[str, Any]) -> tuple[HubTokenizer, Counting]:
    tokenizer = HubTokenizer(style)
    assert tokenizer._shared.cuts in (shared_texts._VISIBLE, shared_texts._LETTERS, frozenset())
    counter = tokenizer._tokenizer = Counting(tokenizer._tokenizer)
    tokenizer._shared._batch = counter.encode_batch_fast
    return tokenizer, counter


@pytest.mark.parametrize("style", STYLES)
def test_what_texts_share_is_encoded_once(style):
    tokenizer, counter = counted(data(style))
    text = "The cat sat on the mat and looked at the old dog, which slept. " * 20
    texts = [f"{text} Number {number} is next" for number in range(40)]
    tokenizer.prepare(texts[:1])  # what was encoded before counts, too
    tokenizer.prepare(texts[1:])
    assert counter.characters < len(text) + 40 * 60
    assert tokenizer.encode(texts[7]) == plain(style).encode(texts[7], add_special_tokens=False).ids
    tokenizer.encode(texts[7] + " again")
    assert counter.characters < len(text) + 40 * 60 + 60


@pytest.mark.parametrize(
    "planted",
    [data("words"), sentencepiece(True), data("zoo") | {"added_tokens": [
        {"id": 5, "content": "on", "special": False, "single_word": False, "lstrip": False,
         "rstrip": True, "normalized": False}]}],
    ids=["a piece of several words", "a token of two words", "an added token that strips"],
)  # fmt: skip
def test_a_tokenizer_that_may_span_a_cut_encodes_whole_texts(planted):
    tokenizer, counter = counted(planted)
    texts = ["a the " * PIECE + f"end {number}" for number in range(3)]
    tokenizer.prepare(texts)
    assert counter.characters == sum(map(len, texts))
    assert counter.longest == len(texts[0])


def test_a_long_text_is_encoded_in_pieces():
    tokenizer, counter = counted(data("llama"))
    text = "The cat sat on the mat. " * 500 + "x" * 3 * PIECE
    tokenizer.prepare([text])
    assert tokenizer.encode(text) == plain("llama").encode(text, add_special_tokens=False).ids
    assert counter.longest < 5 * PIECE
    pieces = pieces_of(text)
    assert "".join(pieces) == text and min(map(len, pieces)) >= PIECE


def test_tokens_of_a_part_of_a_text():
    tokenizer = shared("zoo")
    text = "\u00e9t\u00e9 the cat sat on the mat" * 9
    ids = plain("zoo").encode(text, add_special_tokens=False).ids
    tokenizer.prepare([text])
    ends, total = [], b""
    for id in ids:
        total += tokenizer.token_bytes(id)
        ends.append(len(total))
    for start, end in ((0, 1), (3, 9), (4, 5), (0, len(text)), (10, 10)):
        low, high = (len(text[:at].encode()) for at in (start, end))
        begins = [0, *ends[:-1]]
        expected = sum(b < high and e > low for b, e in zip(begins, ends, strict=True))
        assert tokenizer.tokens_in(text, start, end) == (expected if end > start else 0)
    assert tokenizer.tokens_in("another", 0, 3) is None


def test_a_prepared_text_is_encoded_once_however_often_it_is_asked_for():
    tokenizer, counter = counted(data("zoo"))
    text = "The cat sat on the mat. " * 20
    tokenizer.prepare([text, text])
    assert tokenizer.encode(text) == tokenizer.encode_array(text).tolist() == tokenizer.encode(text)
    tokenizer.prepare([text])
    assert counter.characters == len(text)
    tokenizer.forget()
    assert tokenizer.tokens_in(text, 0, 3) is None
    tokenizer.encode(text)
    assert counter.characters > len(text)


def test_words_are_encoded_once():
    tokenizer, counter = counted(data("llama"))
    assert tokenizer.encode_words("the cat and the cat sat") == tokenizer.encode_words(
        "the cat and the cat sat"
    )
    assert counter.characters == len("the cat and sat") + len(" the")
    tokenizer.encode_words("y" * 100)
    tokenizer.encode_words("y" * 100)
    assert counter.characters == len("the cat and sat the") + 200  # what is long is not kept


@given(st.text(st.sampled_from("ab Z7.\u00e9"), max_size=24), st.data())
def test_the_last_cut_is_the_last_space_between_two_of_the_characters(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    for around, one in ((shared_texts._LETTERS, "[A-Za-z]"), (shared_texts._VISIBLE, "[!-~]")):
        places = [found.end() for found in re.finditer(f"{one}(?= {one})", text[start:end])]
        expected = start + places[-1] if places else 0
        assert shared_texts.last_cut(text, start, end, around) == expected


def test_signs_are_cut_from_each_other_where_no_token_spans_them():
    spanning = data("zoo")
    comma = max(spanning["model"]["vocab"].values()) + 1
    spanning["model"]["vocab"][",\u0120"] = comma  # ", "
    spanning["model"]["merges"].append([",", "\u0120"])
    spanning["pre_tokenizer"] = split(r" ?\p{L}+|[^\p{L}\s]+ ?| ")
    tokenizer = HubTokenizer(spanning)
    assert tokenizer._shared.cuts == shared_texts._LETTERS
    assert tokenizer.encode_words('a, "b", 3') == tokenizer.encode('a, "b", 3')
    assert {comma} & set(tokenizer.encode("a, 3"))
    assert shared("zoo")._shared.cuts == shared("llama")._shared.cuts == shared_texts._VISIBLE


def test_new_words_of_a_text_are_encoded_in_one_call():
    tokenizer, counter = counted(data("qwen"))
    calls: list[int] = []
    plain_batch = counter.encode_batch_fast
    tokenizer._shared._batch = lambda texts, **settings: (
        calls.append(len(texts)) or plain_batch(texts, **settings)
    )
    text = '{"name": "two new words", "count": 12}'
    assert tokenizer.encode_words(text) == plain("qwen").encode(text).ids and calls == [1]
    composed = 'an "e\u0301" there'  # its bytes change, so that each word is encoded apart
    assert tokenizer.encode_words(composed) == plain("qwen").encode(composed).ids
    assert calls == [1, 1, 1, 1, 1]


def test_few_short_texts_wake_no_other_cores_and_many_do():
    tokenizer, counter = counted(data("zoo"))
    calls: list[int] = []

    def call(texts: list[str], **settings: Any) -> Any:
        calls.append(len(texts))
        return counter.encode_batch_fast(texts, **settings)

    tokenizer._shared._batch = call
    few = [f"word {number}" for number in range(5)]
    many = [f"The cat sat on mat {number}." for number in range(200)]
    for texts in (few, many):
        found = tokenizer.encode_arrays(texts)
        expected = [plain("zoo").encode(text, add_special_tokens=False).ids for text in texts]
        assert [ids.tolist() for ids in found] == expected
    assert calls == [1, 200]  # what few begin with is encoded once


@pytest.mark.parametrize("style", STYLES)
@given(texts=st.lists(pieces, max_size=5))
def test_texts_whose_words_are_looked_up_together_get_their_own_ids(style, texts):
    tokenizer, library = shared(style), plain(style)
    tokenizer._shared._words = {}
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert tokenizer.encode_words_of(texts) == expected
    assert tokenizer.encode_words_of(texts) == expected  # all words are known
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == expected
    assert [tokenizer.encode(text) for text in texts] == expected


def test_new_words_of_several_texts_are_encoded_in_one_call():
    tokenizer, counter = counted(data("llama"))
    calls: list[int] = []
    plain_batch = counter.encode_batch_fast
    tokenizer._shared._batch = lambda texts, **settings: (
        calls.append(len(texts)) or plain_batch(texts, **settings)
    )
    texts = [" the cat sat", " the dog sat there", " a dog"]
    found = tokenizer.encode_words_of(texts)
    assert calls == [1]
    assert found == list(map(tokenizer.encode, texts))
