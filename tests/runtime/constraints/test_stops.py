"""Stop strings that span tokens, and text pieces that are safe to show."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.runtime.constraints import stops as module
from weft.runtime.constraints.stops import PatternScanner, Pieces, StopScanner, TokenBytes
from weft.runtime.constraints.watch import Watch
from weft.runtime.simulator import ToyTokenizer
from weft.tests.each_time import examples

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


PATTERNS = [
    r"(a|bb): \d+\.", r"a\d+", r"(ab)+?b", r"a.*b|1", r"a$", r"(?m)^b$", r"a\b", r"\bba\b", r"a\Z",
    r"a(?=b)", r"ab?(?!b)", r"(?<=a)b", r"(?<!\na)b", r"(a|b)\1", r"a*", r"(a?)+", r"a*?b??", r"é+",
    r"(?i)A{2,3}B", r"(?x) a [ab] {2} \ ", r"(a)?b(?(1)1|\.)", r"(?>ab$|a)b", r"a[^b]*+b", r"",
    r"(?:a\n|b)$", r"(?s)a.b", r"[^a]\d{1,2}", "[\udc80-\udcff]+a", r"(?:a|ab)(?:1|b\.)",
    r"a.?\n*$",
]  # fmt: skip


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(PATTERNS), st.text("ab1.: \né", max_size=20), st.lists(st.integers(0, 3)))
def test_a_pattern_is_found_as_a_search_of_all_text_finds_it(pattern, text, sizes):
    _found_alike(pattern, text.encode(), sizes)


READS_ON = {
    "looks ahead": (r"a(?=.{3})", b"ab11"),
    "an atomic group gives up its end": (r"(?>a[^1]*$|a)b", b"abbbb1"),
    "a reference to a group": (r"(a+)1\1", b"ba1a"),
    "an end within a look behind": (r"a(?<!a$)", b"a\nb"),
    "goes on behind a match": (r"b+?", b"ab::::"),
    "a broken character": ("[\udc80-\udcff]", b"a\xc3"),
}


@pytest.mark.parametrize("case", READS_ON)
def test_patterns_that_read_past_a_match_are_found_too(case):
    pattern, whole = READS_ON[case]
    _found_alike(pattern, whole, [])


def _found_alike(pattern: str, whole: bytes, sizes: list[int]) -> None:
    """Feed bytes in pieces of some sizes, then singly; compare with a search of all each time."""
    scanner, end = PatternScanner(pattern), 0
    for size in [*sizes, *[1] * len(whole)]:
        piece, end = whole[end : end + size], min(end + size, len(whole))
        text = whole[:end].decode("utf-8", "surrogateescape")
        found = [each for each in re.finditer(pattern, text) if each.end() > each.start()]
        before = text[: found[0].start()] if found else ""
        expected = len(before.encode("utf-8", "surrogateescape")) if found else None
        assert scanner.feed(piece) == expected
        assert scanner.size == scanner.held_back() == end


def test_all_text_is_searched_where_there_is_what_a_match_ends_with(monkeypatch):
    searched, search = [], module.pattern_start
    monkeypatch.setattr(module, "pattern_start", lambda *of: searched.append(of) or search(*of))
    for pattern in (r"(Answer|Final): \d+\.", r"Answer: \d+"):
        scanner, before = PatternScanner(pattern), "some words. " * 30
        assert not any(scanner.feed(piece.encode()) for piece in before.split(" "))
        searched.clear()
        found = [scanner.feed(piece) for piece in (b"Answer", b": ", b"4", b".")]
        assert found[-1] == len(before.replace(" ", "")) and len(searched) <= 2


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


KEPT_PATTERNS = ["ab+c", "(?<=x)ab", "(?<=a.{3})b", r"\bab\b", "(?m)^ab$", "^ab$", r"x\n?$",
                 r"(?<!a)b\Z", r"\Ba", "a.{5}b"]  # fmt: skip


@pytest.mark.parametrize("pattern", KEPT_PATTERNS)
def test_a_pattern_is_found_where_little_of_the_text_is_kept(pattern, monkeypatch):
    monkeypatch.setattr(module, "LEAST_KEPT", 1)
    random = Random(pattern)
    for _ in range(20):
        scanner, data = PatternScanner(pattern), b""
        for _ in range(60):
            piece = "".join(random.choice("ab cx\né") for _ in range(random.randint(1, 3))).encode()
            data += piece
            wanted = module.pattern_start(re.compile(pattern), data)
            assert scanner.feed(piece) == wanted, data
            if wanted is not None:
                break


def test_a_pattern_keeps_a_long_text_once():
    scanner = PatternScanner(r"\bEND\b")
    for _ in range(40):
        scanner.feed(b"hello world, " * 1000)
        scanner.feed(b"and")
    assert scanner.size > 500_000 and len(scanner._text) < 40_000
    assert scanner.feed(b" END") == scanner.size - 3
