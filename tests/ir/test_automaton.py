"""Automata against their meaning: texts, lengths, what is refused."""

import json
import re
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.bench.constraints.random_schemas import random_schema
from weft.ir.constraints.automaton import (
    MAX_STATES,
    START,
    Chars,
    NotRegular,
    Repeat,
    automaton,
    longest_bytes,
    minimised,
)
from weft.ir.constraints.regex import is_whole, regex, with_plain_sets
from weft.ir.constraints.schema import integers, schema
from weft.ir.constraints.utf8 import EVERY, byte_sequences, complement, union
from weft.tests.each_time import examples
from weft.tests.ir.random_texts import random_text


@settings(deadline=None)
@given(
    st.sampled_from([
        "a|b", "[a-z]{1,3}(?:x|yy)*", r"-?(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,2})?", r"\d\s?",
        r"^(?:é|[^a-y\n])+$", r"(a|b){2,}?z", r"(?P<n>\w)[\s\S]", r".\.", "(?:ab?){0,2}|q", "",
    ]),
    st.text("abxyzé09.- \n_", max_size=6),
)  # fmt: skip
def test_patterns_mean_what_python_means(pattern, text):
    assert automaton(regex(pattern)).accepts(text.encode()) == bool(re.fullmatch(pattern, text))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize(
    "pattern",
    ["[[a]", "[a&&b]", "[+--]", "[--a]", "[[:a]]", "[a~~b]", "[^[]", "[0-9--/]", "[----]", "[]-a]",
     "[^]&-~]", r"[\x2d-\x2f-]"],
)  # fmt: skip
def test_classes_hold_what_they_name(pattern):
    """Elsewhere these are operations on sets; Python warns that they may be some day."""
    built, escaped = automaton(regex(pattern)), re.compile(with_plain_sets(pattern))
    for text in (*map(chr, range(32, 127)), "[]", "a]", ":]", ""):
        wanted = bool(re.fullmatch(pattern, text))
        assert (built.accepts(text.encode()), bool(escaped.fullmatch(text))) == (wanted, wanted)


@given(st.integers(-300, 300), st.integers(0, 400), st.integers(-800, 800))
@settings(max_examples=examples(60), deadline=None)
def test_integer_ranges_are_exact(low, width, number):
    found = automaton(integers(low, low + width))
    for looked in (number, low, low + width, low - 1, low + width + 1):
        assert found.accepts(str(looked).encode()) == (low <= looked <= low + width)
    assert not found.accepts(b"-0") and not found.accepts(b"007")


POINTS = st.integers(0, 0x10FFFF).filter(lambda p: not 0xD800 <= p <= 0xDFFF)


@given(st.lists(st.tuples(POINTS, POINTS).map(sorted).map(tuple), max_size=4), POINTS)
@settings(deadline=None)
def test_ranges_of_code_points_are_spelled_in_utf8(ranges, point):
    chosen = union(ranges)
    expected = any(low <= point <= high for low, high in ranges)
    for ranges_of, inside in ((chosen, expected), (complement(chosen), not expected)):
        data = chr(point).encode()
        assert inside == any(
            len(data) == len(sequence)
            and all(low <= byte <= high for byte, (low, high) in zip(data, sequence, strict=True))
            for sequence in byte_sequences(ranges_of)
        )


def test_the_automaton_is_minimal():
    one, same = automaton(regex("(?:ab|cb)*")), automaton(regex("(?:[ac]b)*"))
    assert one.states == same.states == minimised(one).states == 3


def test_a_pattern_of_large_subsets_is_given_up_in_time():
    """With 300 for 100 it took minutes, and gigabytes; a tenth of the states takes a tenth."""
    with pytest.raises(NotRegular, match="too many states at once"):
        automaton(regex("(a|a{1,100}){1,100}b*"), MAX_STATES // 10)


def test_counts_of_counts_are_one_count_where_none_is_left_out():
    """Then `(a{1,300}){1,300}b*` is given up at once: it is `a{1,90000}b*`."""
    with pytest.raises(NotRegular, match="more than 13104 positions"):
        automaton(regex("(a{1,300}){1,300}b*"), MAX_STATES // 10)
    counts = [
        (low, high) for low in range(4) for high in (0, 2, 3, "") if high == "" or low <= high
    ]
    for (a, b), (c, d) in product(counts, counts):
        pattern = f"(?:a{{{a},{b}}}){{{c},{d}}}b*"
        found = automaton(regex(pattern))
        for text in ("a" * size for size in range(12)):
            assert found.accepts(text.encode()) == bool(re.fullmatch(pattern, text)), pattern


@pytest.mark.parametrize(
    "pattern", ["(a{1,6}){1,10}", "(aa|b{1,3}){20}", "(|é){30}", "\U00010000{15}", "a{60}b*"]
)
def test_a_pattern_of_long_texts_is_refused_by_counting(pattern):
    """Each state of a text's path is another one: of the longest text, or where there is no
    longest one, of the shortest."""
    with pytest.raises(NotRegular, match="a text of 60 bytes takes more than 60 states"):
        automaton(regex(pattern), 60)
    try:
        automaton(regex(pattern), 61)
    except NotRegular as error:
        assert "a text of" not in str(error), "only what cannot fit is counted out"


@pytest.mark.parametrize(
    "pattern", ["(|a){0}", "[^\\d\\D]{9}|b", "([^\\d\\D]*){9}|b", "(){9}b", "a{0}b"]
)
def test_what_says_nothing_has_no_length(pattern):
    assert automaton(regex(pattern), 2).states <= 3


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        ("^a|b$", False), ("^a$|^b$", True), ("^(a|b)$", True), ("(^a$|^ab$)", True),
        ("^a|^b$", False), ("(^)?a$", False), ("(^a|^b)c$", True), ("", False), (r"\Aa\Z", True),
    ],
)  # fmt: skip
def test_a_schemas_pattern_is_looked_for_where_an_alternative_has_no_anchor(pattern, whole):
    """`^a|b$` fits `ax` and `xb`; as a table it allowed `a` and `b` alone."""
    assert is_whole(pattern) == whole
    if not whole:
        with pytest.raises(NotRegular, match="anywhere in its string"):
            schema({"type": "string", "pattern": pattern})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is above its maxLength"),
        ({"type": "array", "minItems": 1, "maxItems": 0}, "minItems is above its maxItems"),
        ({"type": "object", "properties": 5}, "it is no schema: #/properties: it is an object"),
    ],
)
def test_schemas_that_have_no_values_or_no_form_are_no_tables(given, problem):
    with pytest.raises(NotRegular, match=problem):
        schema(given)


def test_counts_of_a_schema_may_read_as_fractions_of_one():
    found = automaton(schema({"type": "string", "minLength": 1.0, "maxLength": 2.0}))
    assert [found.accepts(text) for text in (b'""', b'"a"', b'"ab"', b'"abc"')] == [0, 1, 1, 0]


def test_a_long_string_has_few_states_a_character():
    found = automaton(Repeat(Chars(EVERY), 0, 200))
    assert found.states <= 8 * 200 + 2
    with pytest.raises(NotRegular, match="more than"):
        automaton(Repeat(Chars(EVERY), 0, 5000))


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=examples(30))
def test_schemas_accept_what_json_dumps_writes(seed):
    random = Random(seed)
    given_schema = random_schema(random, 2)
    found = automaton(schema(given_schema))
    text = random_text(found, random)
    value = json.loads(text)
    if b"." not in text and b"e" not in text.lower():
        assert json.dumps(value, ensure_ascii=False).encode() == text or b"/" in text
        assert len(json.dumps(value, ensure_ascii=False).encode()) <= len(text)
    longest = longest_bytes(found)[START]
    assert longest < 0 or len(text) <= longest
    assert not found.accepts(text + b" ") and not found.accepts(b" " + text)


def test_the_longest_text():
    for pattern, longest in (("a{2,5}|bc", 5), ("a*", -1), ("(?:ab|c){3}é?", 8), ("", 0)):
        assert longest_bytes(automaton(regex(pattern)))[START] == longest
