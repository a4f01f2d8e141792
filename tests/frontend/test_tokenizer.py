"""Tokenizers: text is never special, bytes of tokens join to the text, ends are found."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from weft.frontend.checkpoints.tokenizer import HubTokenizer, UnsupportedTokenizer, load_tokenizer
from weft.frontend.models.config import MissingFile, UnreadableFile
from weft.ir.diagnostics import ModelError

ZOO = Path(__file__).parents[2] / "zoo" / "tiny-dense"
CORPUS = ["the cat sat on the mat", "hello world, hello weft", "a b c 1 2 3"] * 5


def sentencepiece(prepend=True):
    """A tokenizer in the manner of Llama 2: visible spaces, byte fallback."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["\u2581", *"abcdehlot", "he", "ll", "\u2581the"]:
        vocabulary[piece] = len(vocabulary)
    merges = [("h", "e"), ("l", "l")]
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("\u2581")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "),
                                           decoders.ByteFallback(), decoders.Fuse()])  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return json.loads(tokenizer.to_str())


@pytest.fixture(scope="module")
def zoo():
    return load_tokenizer(ZOO)


@pytest.fixture(scope="module")
def pieces():
    return HubTokenizer(sentencepiece())


def test_text_is_never_special(zoo):
    ids = zoo.encode("<|bos|>a<|end|>")
    assert not set(ids) & zoo.special_ids
    assert zoo.decode(ids) == "<|bos|>a<|end|>"


def test_special_tokens_have_no_bytes(zoo):
    assert all(zoo.token_bytes(id) == b"" for id in zoo.special_ids)
    assert zoo.decode([zoo.special_texts["<|user|>"], *zoo.encode("hi")]) == "hi"
    assert zoo.decode([zoo.size, *zoo.encode("hi"), zoo.size + 7]) == "hi"  # no token has these


def test_every_byte_has_a_token(zoo):
    singles = {zoo.token_bytes(id) for id in range(zoo.size)}
    assert {bytes([byte]) for byte in range(256)} <= singles


def test_broken_utf8_is_replaced(zoo):
    euro = zoo.encode("\u20ac")
    assert zoo.decode(euro) == "\u20ac"
    assert (
        zoo.decode([id for id in range(zoo.size) if zoo.token_bytes(id) == b"\xe2"][:1]) == "\ufffd"
    )


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=40))
@example(text="a\u2581b")
def test_bytes_join_to_the_text(zoo, pieces, text):
    """A vocabulary that writes spaces as a mark cannot tell the mark from a space."""
    for tokenizer, kept in ((zoo, text), (pieces, text.replace("\u2581", " "))):
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == kept.encode()
        assert tokenizer.decode(ids) == kept


def test_dummy_space_is_told_apart(pieces):
    assert pieces.first_text == " "
    assert pieces.decode(pieces.encode("hello")) == "hello"
    assert HubTokenizer(sentencepiece(prepend=False)).first_text == ""
    first = Tokenizer.from_str(json.dumps(sentencepiece())).encode("hello").ids
    assert pieces.encode(pieces.first_text + "hello") == first


def test_metaspace_vocabularies(tmp_path):
    tokenizer = Tokenizer(models.Unigram([("\u2581", -2.0), ("a", -3.0), ("\u2581a", -1.0)],
                                         unk_id=None, byte_fallback=False))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    wrapped = HubTokenizer(json.loads(tokenizer.to_str()))
    assert wrapped.first_text == " "
    assert wrapped.decode(wrapped.encode("a a")) == "a a"


def test_ends_come_from_all_three_files(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((ZOO / name).read_bytes())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 2]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert load_tokenizer(tmp_path).end_ids == (6, 2, 9)
    assert load_tokenizer(tmp_path).begin_id == 1


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(MissingFile, match="tokenizer.json is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UnreadableFile, match="cut short"):
        load_tokenizer(tmp_path)
    broken = json.loads((ZOO / "tokenizer.json").read_text())
    broken["model"]["merges"] = [["never", "seen"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(ModelError):
        load_tokenizer(tmp_path)


def test_wordpiece_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedTokenizer, match="WordPiece"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("style", ["byte level", "sentencepiece"])
def test_a_vocabulary_that_loses_bytes_is_refused(tmp_path, style):
    data = json.loads((ZOO / "tokenizer.json").read_text())
    lost = ["q", "\u0130"]  # 0x71, and how 0x8E is spelled
    if style == "sentencepiece":
        data, lost = sentencepiece(), ["<0x71>", "<0x8E>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert load_tokenizer(tmp_path).lost_bytes() == []
    model = data["model"]
    model["vocab"] = {token: id for token, id in model["vocab"].items() if token not in lost}
    model["merges"] = [] if style == "byte level" else model["merges"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(UnsupportedTokenizer, match="for the byte 0x71, nor for 1 others: texts"):
        load_tokenizer(tmp_path)


def test_byte_level_with_prefix_space():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped = HubTokenizer(json.loads(tokenizer.to_str()))
    assert wrapped.first_text == " "
    assert wrapped.decode(wrapped.encode("the cat")) == "the cat"
