"""What a host operation gives is no larger than its operands' sizes say."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.core import Term, Value, make
from weft.ir.evaluate import evaluate
from weft.ir.types import INT, STR, list_of
from weft.ir.values import format_value
from weft.passes.program.memory.sizes import Size, size_of_value
from weft.tests.each_time import examples

TEXTS = st.text(st.sampled_from('ab é\x01"\\\n日'), max_size=6)
LARGE = st.integers(10**35, 10**40)
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), LARGE, LARGE.map(lambda number: -number))
LISTS = st.lists(TEXTS, max_size=4)
WORDS, WHOLE = list_of(STR), list_of(INT)
PAIR = Term("record", ("Pair",))

CASES: dict[str, tuple[str, dict[str, Any], Term, tuple[Any, ...]]] = {
    "texts added": ("binary", {"op": "+"}, STR, (TEXTS, TEXTS)),
    "lists added": ("binary", {"op": "+"}, WORDS, (LISTS, LISTS)),
    "numbers added": ("binary", {"op": "+"}, INT, (NUMBERS, NUMBERS)),
    "numbers taken away": ("binary", {"op": "-"}, INT, (NUMBERS, NUMBERS)),
    "a number turned": ("unary", {"op": "neg"}, INT, (NUMBERS,)),
    "a list": ("list", {}, WORDS, (TEXTS, TEXTS)),
    "a list in a list": ("list", {}, list_of(WORDS), (LISTS, LISTS)),
    "a record": ("make_record", {"fields": ["word", "n"]}, PAIR, (TEXTS, NUMBERS)),
    "a text with values": ("format", {"parts": ["é<", 0, ">", 1, 0]}, STR, (TEXTS, LISTS)),
    "a list as text": ("builtin", {"name": "str"}, STR, (LISTS,)),
    "a list in order": ("builtin", {"name": "sorted"}, WORDS, (LISTS,)),
    "joined": ("method", {"name": "join"}, STR, (TEXTS, LISTS)),
    "split": ("method", {"name": "split"}, WORDS, (TEXTS,)),
    "split at a sign": ("method", {"name": "split"}, WORDS, (TEXTS, st.sampled_from("ab é"))),
    "lines": ("method", {"name": "splitlines"}, WORDS, (TEXTS,)),
    "stripped": ("method", {"name": "strip"}, STR, (TEXTS, TEXTS)),
    "in capitals": ("method", {"name": "upper"}, STR, (TEXTS,)),
    "replaced": ("method", {"name": "replace"}, STR, (TEXTS, TEXTS, TEXTS)),
    "a sum": ("builtin", {"name": "sum"}, INT, (st.lists(st.integers(-(10**9), 10**9)),)),
    "a character": ("index", {}, STR, (TEXTS.filter(bool), st.just(-1))),
    "an element": ("index", {}, STR, (LISTS.filter(bool), st.just(0))),
    "a number of a text": ("builtin", {"name": "int"}, INT, (NUMBERS.map(str),)),
}


def size(value: Any) -> Size:
    """The size that a value has."""
    if isinstance(value, list):
        return Size(written(value), len(value), max(map(written, value), default=0))
    return Size(written(value))


def written(value: Any) -> int:
    return len(format_value(value).encode())


def type_of(value: Any) -> Term:
    if isinstance(value, list):
        return WHOLE if value and isinstance(value[0], int) else WORDS
    return INT if isinstance(value, int) else STR


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(data=st.data())
def test_a_value_is_no_larger_than_its_size(case, data):
    name, attributes, type, strategies = CASES[case]
    values = [data.draw(strategy) for strategy in strategies]
    operands = [Value(f"v{at}", type_of(value)) for at, value in enumerate(values)]
    result = Value("result", type)
    operation = make(f"program.{name}", *operands, results=(result,), **attributes)
    bound, found = size_of_value(operation, list(map(size, values))), evaluate(operation, values)
    have = size(found)
    pairs = [(have.bytes, bound.bytes)]
    if isinstance(found, list):
        pairs += [(have.count, bound.count), (have.each, bound.each)]
    for actual, most in pairs:
        assert isinstance(actual, int) and isinstance(most, int) and actual <= most
