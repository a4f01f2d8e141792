"""Ends of constrained texts: canonical tokens, most of which are looked at before the end."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.frontend.checkpoints.tokenizer import HubTokenizer, load_tokenizer
from weft.ir.vocabulary import common_length
from weft.runtime.constraints.stops import TokenBytes, canonical_ids
from weft.runtime.constraints.watch import Finish, Watch, spell_together, take_tokens
from weft.runtime.schedule.endings import TURNS, Endings

ZOO = Path(__file__).resolve().parents[3] / "zoo"
TEXTS = (
    "the cat and the dog", " a word", ", It is 42.", " \u00e9t\u00e9", "e\u0301 x", "  two  ",
    "\u4e2d",
)  # fmt: skip


@cache
def tokenizer() -> HubTokenizer:
    return load_tokenizer(ZOO / "tiny-dense")


class Open:
    """A matcher of any text."""

    idle = False

    def accept(self, token: int) -> None:
        """Take it."""

    def is_complete(self) -> bool:
        """Never."""
        return False


def spelled(texts: list[str], letters: list[bool]) -> list[int]:
    """Return ids of texts one after another, some of them letter by letter."""
    ids: list[int] = []
    for text, apart in zip(texts, letters, strict=False):
        for part in text if apart else (text,):
            ids += tokenizer().encode(part)
    return ids


def watched(stops: tuple[str, ...] = ()) -> Watch:
    return Watch(TokenBytes(tokenizer()), Open(), stops)  # type: ignore[arg-type]


def is_text(ids: list[int]) -> bool:
    return "\ufffd" not in tokenizer().decode(ids)


@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=12),
    letters=st.lists(st.booleans(), min_size=12, max_size=12),
    looks=st.dictionaries(st.integers(0, 60), st.booleans(), max_size=8),
    keep=st.sampled_from([-1, -1, 0, 3]),
)
def test_what_is_looked_at_before_the_end_changes_no_end(texts, letters, looks, keep):
    ids, watch = spelled(texts, letters), watched()
    for number, token in enumerate(ids):
        if number in looks:
            known = canonical_ids(TokenBytes(tokenizer()), ids[:number])
            sure = is_text(ids[:number]) and known == ids[:number]
            whole = looks[number]
            assert watch.foresee(whole) is (whole and sure)
        watch.accept(token)
    tail = () if keep < 0 else tuple(tokenizer().encode(" end"))
    left = ids if keep < 0 else [*ids[:keep], *tail]
    canonical = canonical_ids(TokenBytes(tokenizer()), left)
    shared = common_length(ids, canonical)
    found = watch.settled(Finish("length", keep, tail))
    expected = Finish("length", shared, tuple(canonical[shared:]))
    assert found == (Finish("length", keep, tail) if canonical == left else expected)


def test_what_has_no_bytes_stays():
    (end, *_) = tokenizer().end_ids
    assert canonical_ids(TokenBytes(tokenizer()), [end]) == [end]
    watches = [watched(), watched()]
    spell_together([(watch, (end,)) for watch in watches])
    for watch in watches:
        watch.accept(end)
        assert watch.settled(Finish("length", -1)) == Finish("length", -1)


@pytest.mark.parametrize("whole", [True, False])
def test_at_the_end_little_is_encoded(whole):
    watch, asked = watched(), []
    plain = watch._words.spell
    watch._words.spell = lambda text: asked.append(text) or plain(text)  # type: ignore[func-returns-value]
    *ids, last = tokenizer().encode("the cat and the dog went on and on to the house")
    for token in ids:
        watch.accept(token)
    if whole:
        assert watch.foresee(whole=True)
    else:
        watch.foresee()
    asked.clear()
    watch.accept(last)
    assert watch.settled(Finish("length", -1)) == Finish("length", -1)
    assert asked and all(len(text) < 12 for text in asked)


@given(
    rows=st.lists(st.tuples(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4),
                            st.booleans(), st.booleans()), min_size=1, max_size=4),
)  # fmt: skip
def test_texts_that_end_in_one_step_are_encoded_together_and_end_as_each_alone(rows):
    end, asked = 1, []
    requests, drawn, alone = [], [], []
    for texts, apart, by_token in rows:
        ids, watch, other = spelled(texts, [apart] * len(texts)), watched(), watched()
        last = end if by_token else ids.pop()
        for token in ids:
            watch.accept(token)
            other.accept(token)
        if not by_token:
            other.accept(last)
        watch._words.spell = lambda text: asked.append(text) or tokenizer().encode(text)  # type: ignore[func-returns-value]
        requests.append(SimpleNamespace(watch=watch, sampling=SimpleNamespace(ends=(end,))))
        drawn.append(last)
        alone.append(other.settled(Finish("length", -1)))
    places = list(range(len(rows)))
    assert take_tokens(requests, places, drawn, [True] * len(rows)) == places
    for request, token, expected in zip(requests, drawn, alone, strict=True):
        if token != end:
            request.watch.accept(token)
        assert request.watch.settled(Finish("length", -1)) == expected
    assert len(rows) == 1 or not [text for text in asked if text]


@pytest.mark.parametrize("stops, sure", [((), True), (("###",), False)])
def test_what_a_stop_may_cut_is_not_sure_to_stay(stops, sure):
    watch = watched(stops)
    for token in tokenizer().encode("the cat and the dog"):
        watch.accept(token)
    assert watch.foresee(whole=True) is sure


def test_what_is_split_nowhere_is_encoded_at_the_end_only():
    watch, asked = watched(), []
    plain = watch._words.spell
    watch._words.spell = lambda text: asked.append(text) or plain(text)  # type: ignore[func-returns-value]
    for token in tokenizer().encode('{"a":1,"b":[2,3]}'):
        watch.accept(token)
        watch.foresee()
    assert not asked and watch.settled(Finish("complete", -1)) == Finish("complete", -1)
    assert asked == ['{"a":1,"b":[2,3]}']


def test_what_is_sure_ends_where_a_token_does():
    """A token of a constraint's own may span the place at which a text is split."""
    pieces = [b"a", b"b c", b"d", b"b", b" cd", b"b ", b"cd"]
    spelled = {"ab ": [0, 5], "b cd": [3, 4], "ab cd": [0, 5, 6]}
    stub = SimpleNamespace(
        token_bytes=pieces.__getitem__, encode=spelled.__getitem__, last_cut=lambda text: 3
    )
    watch = Watch(TokenBytes(stub), Open())  # type: ignore[arg-type]
    for token in (0, 1, 2):
        watch.accept(token)
    watch.foresee()
    assert watch.settled(Finish("complete", -1)) == Finish("complete", 1, (5, 6))


def test_while_draws_are_on_their_way_ends_are_looked_at_in_turn():
    kept: list[Any] = []
    endings = Endings(None, None, None, kept.append)  # type: ignore[arg-type]
    endings.remember = lambda request: kept.append(request)  # type: ignore[method-assign]
    seen: list[int] = []

    def request(number: int, stays: bool) -> Any:
        def foresee(whole: bool = False) -> bool:
            seen.append(number)
            return whole and stays

        return SimpleNamespace(watch=SimpleNamespace(foresee=foresee))

    rows = [request(number, True) for number in range(3 * TURNS + 1)]
    for _ in range(TURNS):
        endings.meanwhile((), rows)
    assert sorted(seen) == list(range(len(rows))) and not kept
    free, sure, unsure = SimpleNamespace(watch=None), request(-1, True), request(-2, False)
    endings.meanwhile([free, sure, unsure], ())  # type: ignore[list-item]
    assert kept == [free, sure]
