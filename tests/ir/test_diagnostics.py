"""Diagnostics: how they render, that they pickle, and that a subclass needs only its template."""

import copy
import pickle

import pytest
from weft.ir import diagnostics
from weft.ir.diagnostics import Note, Warning, WeftError, WeftTypeError
from weft.ir.source import Source, Span

SOURCE = Source("a.weft", "first line\n    second line\nthird\n")


class Mismatch(WeftTypeError):
    template = "{have} where {want} belongs"
    hint = "try {want}"


def span(line: int, column: int, end_line: int, end_column: int) -> Span:
    return Span("a.weft", line, column, end_line, end_column)


def test_message_line_caret_note_and_hint():
    error = Mismatch(
        have="str",
        want="int",
        span=span(2, 5, 2, 11),
        source=SOURCE,
        notes=(Note("bound here", span(1, 1, 1, 6)), Note("and so on")),
    )
    assert error.render() == (
        "a.weft:2:5: type error: str where int belongs\n"
        "    2 |     second line\n"
        "      |     ^^^^^^\n"
        "a.weft:1:1: note: bound here\n"
        "    1 | first line\n"
        "      | ^^^^^\n"
        "note: and so on\n"
        "hint: try int"
    )
    assert str(error) == error.render()


@pytest.mark.parametrize(
    ("place", "carets"),
    [
        (span(1, 1, 2, 3), 10),
        (span(3, 3, 3, 3), 1),
        (span(1, 11, 1, 12), 1),
        (span(1, 7, 1, 99), 4),
    ],
)
def test_carets_stay_on_the_line(place, carets):
    shown = Mismatch(have=1, want=2, span=place, source=SOURCE).render()
    assert shown.splitlines()[2].count("^") == carets


def test_without_source_or_span_there_is_no_excerpt():
    assert "|" not in Mismatch(have=1, want=2).render()
    assert "|" not in Mismatch(have=1, want=2, span=span(1, 1, 1, 2)).render()
    other = Span("b.weft", 1, 1, 1, 2)
    assert "|" not in Mismatch(have=1, want=2, span=other, source=SOURCE).render()


def test_a_source_can_be_given_later():
    error = Mismatch(have=1, want=2, span=span(3, 1, 3, 6))
    shown = error.with_source(SOURCE)
    assert "third" in shown.render() and "third" not in error.render()
    assert type(shown) is Mismatch and shown.fields == error.fields


def test_a_hint_of_the_instance_wins():
    assert Mismatch(have=1, want=2, hint="do this").hint_text == "do this"
    assert Mismatch(have=1, want=2, hint="").hint_text == "try 2"


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_are_copied_whole(again):
    error = Mismatch(have="x", want="y", span=span(1, 1, 1, 6), source=SOURCE, notes=(Note("n"),))
    copied = again(error)
    assert type(copied) is Mismatch
    assert copied.render() == error.render()
    assert (copied.span, copied.notes, copied.source) == (error.span, error.notes, error.source)


def test_every_kind_of_error_is_a_weft_error():
    kinds = [
        item for item in vars(diagnostics).values()
        if isinstance(item, type) and issubclass(item, WeftError)
    ]  # fmt: skip
    assert len({item.kind for item in kinds}) == len(kinds)
    for item in kinds:
        assert item(message="m").message == "m"


def test_warnings():
    assert str(Warning("odd", span(1, 2, 1, 3), "look")) == "a.weft:1:2: warning: odd\nhint: look"
    assert str(Warning("odd")) == "warning: odd"


def test_spans():
    first, second = span(1, 2, 1, 5), span(3, 1, 3, 4)
    assert first.to(second) == span(1, 2, 3, 4)
    assert str(first) == "a.weft:1:2"
    assert first < second
    assert SOURCE.line(2) == "    second line" and SOURCE.line(9) == ""


def test_lines_end_at_line_feeds_alone():
    source = Source("a.weft", "one\u2028still one\x0c\x85\r\ntwo\n")
    assert source.line(1) == "one\u2028still one\x0c\x85" and source.line(2) == "two"
    assert [source.line(number) for number in (0, 3, 4)] == ["", "", ""]


@pytest.mark.parametrize("column", [1, 70, 2500, 4990, 5000])
def test_of_a_long_line_what_is_around_the_place_is_shown(column):
    text = "".join(chr(ord("a") + at % 26) for at in range(5000))
    place = Span("long", 1, column, 1, column + 3)
    shown = Mismatch(have=1, want=2, span=place, source=Source("long", text)).render()
    line, carets = shown.splitlines()[1:3]
    at = carets.index("^")
    assert len(line) < 230 and line[at : at + carets.count("^")] == text[column - 1 : column + 2]
