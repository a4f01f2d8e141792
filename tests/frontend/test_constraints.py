"""Constraints: exact integer ranges, patterns and schemas that agree with how values are read."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.constraints import (
    constraint_of,
    format_value,
    integer_pattern,
    parse_value,
    pattern_of,
    records_of,
    schema_of,
)
from weft.frontend.text.parser import parse_text
from weft.ir.core import Term
from weft.ir.types import BOOL, FLOAT, INT, STR, choice, int_range, list_of, record, regex

SCHEMA = Term("schema", (json.dumps({"type": "object", "description": "c" * 500}),))
RECORDS = records_of(
    lower(
        parse_text(
            "record Review:\n    strength: str(max_tokens=24)\n    score: int(1..10)\n\n"
            'record Order:\n    who: Review\n    tags: list[choice["a", "b c"]](max_items=2)\n'
            '    fast: bool\n    price: float\n    code: regex "[A-Z]{2}"\n'
        )
    )
)


@given(st.integers(-3000, 3000), st.integers(0, 3000))
@settings(max_examples=200, deadline=None)
def test_small_ranges_are_exact(low, width):
    pattern = re.compile(integer_pattern(low, low + width))
    for number in range(low - 60, low + width + 60):
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= low + width)


@given(st.integers(), st.integers(), st.integers())
def test_wide_ranges_are_exact_wherever_one_looks(first, second, number):
    low, high = sorted((first, second))
    pattern = re.compile(integer_pattern(low, high))
    for looked in (number, low, high, low - 1, high + 1, low // 10, high // 10, low * 10, -low):
        assert bool(pattern.fullmatch(str(looked))) == (low <= looked <= high), looked


@given(st.integers(-50, 50), st.integers(0, 100), st.text("-+0123456789. ", max_size=4))
def test_no_other_text_is_a_number(low, width, text):
    canonical = re.fullmatch(r"0|-?[1-9]\d*", text)
    matched = re.fullmatch(integer_pattern(low, low + width), text)
    assert not matched or (canonical and low <= int(text) <= low + width)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="holds no number"):
        integer_pattern(2, 1)


SCALARS = {
    INT: st.integers(-999_999_999, 999_999_999),
    int_range(-5, 17): st.integers(-5, 17),
    BOOL: st.booleans(),
    FLOAT: st.integers(-(10**6), 10**6).map(lambda number: number / 8),
    choice("yes", "no (really)", "a|b"): st.sampled_from(["yes", "no (really)", "a|b"]),
    regex("[a-z]{1,3}"): st.from_regex("[a-z]{1,3}", fullmatch=True),
}


@pytest.mark.parametrize("type", SCALARS, ids=str)
def test_scalars_read_back_and_match_their_pattern(type):
    @given(SCALARS[type])
    def check(value):
        text = format_value(value)
        assert parse_value(type, {}, text) == value
        found = constraint_of(type, {})
        assert found is not None
        kind, pattern = found
        assert kind == "regex" and re.fullmatch(pattern, text)

    check()


REVIEWS = st.fixed_dictionaries(
    {
        "strength": st.text(
            st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\x7f"), max_size=60
        ),
        "score": st.integers(1, 10),
    }
)
ORDERS = st.fixed_dictionaries(
    {
        "who": REVIEWS,
        "tags": st.lists(st.sampled_from(["a", "b c"]), max_size=2),
        "fast": st.booleans(),
        "price": st.integers(-1000, 1000).map(lambda number: number / 4),
        "code": st.sampled_from(["AB", "XY"]),
    }
)


def in_declared_order(value: dict) -> dict:
    who = {name: value["who"][name] for name in ("strength", "score")}
    return {"who": who} | {name: value[name] for name in ("tags", "fast", "price", "code")}


@settings(deadline=None)
@given(ORDERS.map(in_declared_order))
def test_records_read_as_json_dumps_writes_them(value):
    text = json.dumps(value, ensure_ascii=False)
    assert text == format_value(value)
    assert re.fullmatch(pattern_of(record("Order"), RECORDS), text)
    assert parse_value(record("Order"), RECORDS, text) == value


def test_a_number_beyond_all_floats_is_infinite_wherever_it_stands():
    digits = "1" * 400
    for text in (digits, f"-{digits}"):
        assert parse_value(list_of(FLOAT), {}, f"[{text}]") == [float(text)]
        assert parse_value(FLOAT, {}, text) == float(text)


def test_the_schema_of_a_record():
    found = constraint_of(record("Review"), RECORDS)
    assert found is not None
    kind, source = found
    assert kind == "json"
    schema = json.loads(source)
    assert schema["required"] == ["strength", "score"]
    assert schema["properties"]["score"] == {"type": "integer", "minimum": 1, "maximum": 10}
    assert schema["x-guidance"]["item_separator"] == ", "
    nested = schema_of(list_of(record("Order")), RECORDS)
    assert nested["items"]["properties"]["tags"]["maxItems"] == 2


def test_free_text_has_no_constraint():
    assert constraint_of(STR, {}) is None


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (INT, "x"), (INT, "1.5"), (int_range(1, 10), "11"), (BOOL, "yes"), (FLOAT, "nan"),
        (choice("a"), "b"), (regex("a+"), "ab"), (record("Review"), '{"strength": "x"'),
        (record("Review"), '{"strength": "x"}'), (record("Review"), '{"strength": 1, "score": 2}'),
        (record("Review"), '{"strength": "x", "score": 20}'), (list_of(INT), "[true]"),
        (list_of(INT), "{}"), (SCHEMA, "9" * 5000), (INT, "9" * 5000), (list_of(INT), "9" * 5000),
        (SCHEMA, "[" * 100_000), (SCHEMA, '{"a": '),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_texts_that_are_no_value(type: Term, text: str):
    from weft.ir.values import UnreadableValue

    with pytest.raises(UnreadableValue) as caught:
        parse_value(type, RECORDS, text)
    assert "ccccc" not in caught.value.message  # a schema may be long, and says nothing here
    assert "9" * 5000 not in text or "more than 4300 digits" in caught.value.message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (True, "true"), (None, "none"), (3, "3"), (0.5, "0.5"),
        (["é", 1], '["é", 1]'), ({"a": {"b": [True]}}, '{"a": {"b": [true]}}'),
    ],
)  # fmt: skip
def test_how_values_read_in_text(value, text):
    assert format_value(value) == text


def test_llguidance_holds_what_the_constraints_say():
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")

    def accepts(constraint, text):
        kind, source = constraint
        make = {
            "regex": llguidance.LLMatcher.grammar_from_regex,
            "json": llguidance.LLMatcher.grammar_from_json_schema,
        }[kind]
        matcher = llguidance.LLMatcher(tokenizer, make(source))
        assert not matcher.is_error(), matcher.get_error()
        data = list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()

    order = {
        "who": {"strength": 'é "quoted"', "score": 10},
        "tags": ["a", "b c"], "fast": True, "price": 1.25, "code": "AB",
    }  # fmt: skip
    text = json.dumps(order, ensure_ascii=False)
    whole = constraint_of(record("Order"), RECORDS)
    assert accepts(whole, text)
    assert accepts(("regex", pattern_of(record("Order"), RECORDS)), text)
    assert not accepts(whole, text.replace('"score": 10', '"score": 11'))
    assert not accepts(whole, json.dumps(order, separators=(",", ":")))
    for type in SCALARS:
        assert accepts(constraint_of(type, {}), {
            INT: "-12", int_range(-5, 17): "-5", BOOL: "true", FLOAT: "-0.25",
            choice("yes", "no (really)", "a|b"): "no (really)", regex("[a-z]{1,3}"): "ab",
        }[type])  # fmt: skip
