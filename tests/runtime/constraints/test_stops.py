"""Stop strings that span tokens, and text pieces that are safe to show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from weft.runtime.constraints.stops import Pieces, StopScanner, TokenBytes
from weft.runtime.constraints.watch import Watch
from weft.runtime.simulator import ToyTokenizer

PIECES = st.lists(st.sampled_from(["a", "b", "ab", "c", "é", "ba", ""]), max_size=12)
STOPS = st.lists(st.sampled_from(["a", "bc", "aba", "cé", "abcab", "éé"]), min_size=1, max_size=3)


@given(pieces=PIECES, stops=STOPS)
def test_the_scanner_finds_the_earliest_stop_as_soon_as_it_is_complete(pieces, stops):
    scanner, so_far = StopScanner(tuple(stops)), b""
    for piece in pieces:
        so_far += piece.encode()
        at = scanner.feed(piece.encode())
        found = [i for stop in stops if (i := so_far.find(stop.encode())) >= 0]
        assert at == (min(found) if found else None)
        if found:
            return
        shown = so_far[: len(so_far) - scanner.held_back()]
        rest = so_far[len(shown) :]
        assert all(not shown.endswith(stop.encode()[:1]) or rest for stop in stops if len(stop) > 1)


@given(pieces=PIECES, stops=STOPS)
def test_pieces_in_which_surely_no_stop_ends_are_passed_over(pieces, stops):
    every, quick = StopScanner(tuple(stops)), StopScanner(tuple(stops))
    for piece in (text.encode() for text in pieces):
        found = every.feed(piece)
        passed = quick.passes(piece)
        assert not passed or found is None
        assert (None if passed else quick.feed(piece)) == found
        assert quick.size == every.size
        if found is not None:
            return
        assert quick.held_back() == every.held_back()


@given(text=st.text(max_size=20), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_pieces_join_to_the_text(text, cuts):
    data, pieces, start, out = text.encode(errors="replace"), Pieces(), 0, ""
    for cut in [*sorted(cuts), len(data)]:
        out += pieces.feed(data[start : max(start, cut)])
        start = max(start, min(cut, len(data)))
    assert out + pieces.finish() == data.decode()


@given(text=st.text("ab xé", max_size=20), stops=STOPS, heal=st.sampled_from(["", " "]))
def test_a_watched_generation_shows_exactly_its_value(text, stops, heal):
    tokenizer = ToyTokenizer(["ab", " a", "ba b"])
    words, heard = TokenBytes(tokenizer), []
    watch = Watch(words, stops=tuple(stops), listener=heard.append, heal=heal)
    kept, tail = [], ()
    for token in tokenizer.encode(heal + text):
        kept.append(token)
        finish = watch.accept(token)
        if finish is not None:
            kept, tail = kept[: finish.keep], finish.tail
            break
    watch.close()
    found = [i for stop in stops if (i := text.find(stop)) >= 0]
    value = text[: min(found)] if found else text
    assert tokenizer.decode([*kept, *tail]) == heal + value
    assert "".join(heard) == value
