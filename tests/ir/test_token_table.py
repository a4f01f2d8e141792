"""Automata and token tables against their meaning: texts, masks, distances, forced tokens."""

import json
import re
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from weft.bench.constraints.random_schemas import random_schema
from weft.frontend.checkpoint import open_checkpoint
from weft.ir.automaton import (
    MAX_STATES,
    START,
    Chars,
    NotRegular,
    Repeat,
    automaton,
    longest_bytes,
    minimised,
)
from weft.ir.automaton_regex import is_whole, regex
from weft.ir.automaton_schema import integers, schema
from weft.ir.automaton_stops import until_stop
from weft.ir.automaton_utf8 import EVERY, byte_sequences, complement, union
from weft.ir.constraint_tables import ConstraintTables, _known
from weft.ir.token_table import TokenTable, expression_of, token_table
from weft.ir.token_trie import TokenTrie
from weft.tests.each_time import examples


@cache
def vocabulary():
    tokenizer = open_checkpoint("tiny-dense").tokenizer
    return tokenizer, TokenTrie.of(tokenizer)


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
    text = _random_text(found, random)
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


def _random_text(found, random) -> bytes:
    table, data, state = found.by_byte(), b"", START
    for _ in range(400):
        choices = np.flatnonzero(table[state]).tolist()
        if found.accepting[state] and (not choices or random.random() < 0.3):
            return data
        closing = [b for b in choices if b in b'"}],']
        byte = random.choice(closing if closing and random.random() < 0.4 else choices)
        data += bytes((byte,))
        state = int(table[state, byte])
    while not found.accepting[state]:  # the rest by the shortest way
        from weft.ir.automaton import shortest_bytes

        left = shortest_bytes(found)
        byte = min(np.flatnonzero(table[state]).tolist(), key=lambda b: left[table[state, b]])
        data += bytes((byte,))
        state = int(table[state, byte])
    return data


# Tables.


def _allowed(table: TokenTable, state: int, remaining: int) -> set[int]:
    row = table.mask_of[state, min(remaining, table.mask_of.shape[1] - 1)]
    bits = np.unpackbits(table.masks[row].view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["a", "long word"]}, "maxItems": 2},
        "n": {"type": "integer", "minimum": -5, "maximum": 120},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


def test_whole_numbers_that_a_schema_lists_are_numbers():
    for kinds in ("number", ["number", "null"], ["integer", "null"]):
        given = automaton(expression_of("json", {"type": kinds, "enum": [1, "a", 20, None]}))
        found = [given.accepts(text) for text in (b"1", b"20", b"null", b'"a"')]
        assert found == [True, True, "null" in kinds, False]


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return token_table("json", SCHEMA, *vocabulary())


def test_masks_are_the_tokens_that_lead_on(table):
    tokenizer, trie = vocabulary()
    most = table.mask_of.shape[1] - 1
    for state in range(START, len(table.moves)):
        if table.forced_tokens(state):
            assert _allowed(table, state, most) == {table.forced_tokens(state)[0]}
            continue
        expected = {i for i, word in enumerate(trie.words) if word and table.walk(word, state)}
        if table.accepting[state]:
            expected |= set(tokenizer.end_ids)
        assert _allowed(table, state, most) == expected


def test_a_budget_that_suffices_is_kept(table):
    """From a state at distance d <= r, allowed tokens lead to distances below r, and some does."""
    tokenizer, trie = vocabulary()
    for state in range(START, len(table.moves)):
        forced = table.forced_tokens(state)
        data = b"".join(trie.words[i] for i in forced)
        if forced:
            after = table.walk(data, state)
            assert table.distance[state] == len(forced) + table.distance[after]
            continue
        for remaining in range(max(1, int(table.distance[state])), table.mask_of.shape[1] + 1):
            tokens = _allowed(table, state, remaining) - set(tokenizer.end_ids)
            left = [table.distance[table.walk(trie.words[i], state)] for i in tokens]
            assert all(distance < remaining for distance in left)
            assert tokens or table.accepting[state]


def test_forced_tokens_are_those_of_every_whole_text(table):
    tokenizer, _ = vocabulary()
    automaton_of = automaton(schema(SCHEMA))
    forced = table.forced_tokens(START)
    assert tokenizer.decode(forced).startswith('{"name"')
    for seed in range(60):
        text = _random_text(automaton_of, Random(seed)).decode()
        assert tokenizer.encode(text)[: len(forced)] == forced


def test_the_healed_start_is_the_start_after_a_space(table):
    assert table.walk(b" ", table.healed) == START
    assert table.walk(b"{", table.healed) == 0


def test_a_table_is_stored_and_read_back(table):
    again = TokenTable.from_bytes(table.to_bytes())
    for name in ("classes", "moves", "masks", "mask_of", "forced", "forced_at", "distance"):
        assert np.array_equal(getattr(table, name), getattr(again, name))
    with pytest.raises(ValueError, match="not a token table"):
        TokenTable.from_bytes(table.to_bytes()[:-40])


class Folder(dict):
    def find(self, key):
        return self.get(key)

    def put(self, key, data):
        self[key] = data


def test_a_stored_table_is_found_again_and_a_broken_one_made_anew():
    tokenizer, _ = vocabulary()
    store = Folder()

    def compiled() -> int:
        _known.clear()
        tables = ConstraintTables(tokenizer, store)
        assert isinstance(tables.find("regex", "one|two"), TokenTable)
        assert tables.find("regex", r"(a)\1") == "it has groupref"
        return tables.compiled

    assert [compiled(), compiled()] == [2, 0]
    key = next(key for key, data in store.items() if not data.startswith(b"left"))
    store[key] = store[key][:-40]
    assert [compiled(), compiled()] == [1, 0]


def test_keys_tell_vocabularies_and_constraints_apart():
    tokenizer, _ = vocabulary()
    one = ConstraintTables(tokenizer)
    assert one.key("regex", "a") == ConstraintTables(tokenizer).key("regex", "a")
    assert one.key("regex", "a") != one.key("regex", "b") != one.key("json", "b")

    class Other(type(tokenizer)):
        end_ids = (1, 2)

        def __init__(self):
            self.__dict__.update({k: v for k, v in vars(tokenizer).items() if k != "end_ids"})

    assert ConstraintTables(Other()).key("regex", "a") != one.key("regex", "a")


PARTS = ("a", "b", "ab", ", ", "\n", "1")


@given(
    st.sampled_from(["[ab, ]{1,6}", "(?:ab)+", "a\nb?", "[ab]*(?:, [ab])?", "1|1, |1, a"]),
    st.lists(st.sampled_from([",", "\n", ", ", "ba", "aab"]), min_size=1, max_size=2, unique=True),
    st.lists(st.sampled_from(PARTS), max_size=6).map("".join),
)
@example("[ab, ]{1,6}", [",", "ba"], "aabbbba")  # it ends before the stop string does
@settings(deadline=None, max_examples=examples(300))
def test_stop_strings_end_whole_texts(pattern, stops, text):
    """A text is in it without a stop string, or with the first one at its end, if it may go on
    until then."""
    whole = automaton(regex(pattern))
    found = until_stop(regex(pattern), tuple(sorted(stops)))
    without = [w for w in _texts(whole) if not any(stop in w for stop in stops)]
    if not without:
        assert found.accepts(text.encode()) == whole.accepts(text.encode())
        return
    ends = {len(text[: text.index(stop)] + stop) for stop in stops if stop in text}
    if not ends:
        assert found.accepts(text.encode()) == whole.accepts(text.encode())
        return
    at_end = min(ends) == len(text)
    before = [text.removesuffix(stop) for stop in stops if text.endswith(stop)]
    may = any(
        whole.accepts(w.encode())
        and all(_goes_on(whole, text[:end]) for end in range(len(w), len(text)))
        for w in before
    )
    if found.accepts(text.encode()):
        assert at_end and any(whole.accepts(w.encode()) for w in before)
    elif at_end and len(before) == 1:
        assert not may or any(stop in before[0][:-1] + before[0][-1:] for stop in stops)


def _goes_on(whole, text: str) -> bool:
    """Whether a text is not whole yet, or a longer one is, too."""
    return not whole.accepts(text.encode()) or bool(whole.moves[whole.walk(text.encode())].any())


def _texts(whole) -> list[str]:
    alphabet = ["a", "b", ",", " ", "\n", "1"]
    found, todo = [], [""]
    for text in todo:
        if whole.accepts(text.encode()):
            found.append(text)
        if len(text) < 4:
            todo += [text + c for c in alphabet if whole.walk((text + c).encode())]
    return found


def test_a_number_may_be_ended_by_a_stop_string():
    found = until_stop(regex("[0-9]{1,3}"), ("\n", " m"))
    for text in ("1", "12", "12\n", "7 m", "123"):
        assert found.accepts(text.encode())
    for text in ("123\n", "\n", "1 ", "1\n2", "1 m\n"):
        assert not found.accepts(text.encode())
    assert not found.moves[found.walk(b"12\n")].any()


def test_what_is_nested_too_deeply_has_no_table():
    names = [f"d{at}" for at in range(400)]
    rooms = {
        name: {"type": "array", "items": {"$ref": f"#/$defs/{inner}"}, "maxItems": 1}
        for name, inner in zip(names, names[1:], strict=False)
    }
    whole = {"$ref": "#/$defs/d0", "$defs": {**rooms, "d399": {"type": "null"}}}
    with pytest.raises(NotRegular, match="nested too deeply"):
        token_table("json", json.dumps(whole), *vocabulary())
