"""Token tables against their meaning: texts, masks, distances, forced tokens."""

import json
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.constraints.automaton import (
    START,
    NotRegular,
    automaton,
)
from weft.ir.constraints.regex import regex
from weft.ir.constraints.schema import schema
from weft.ir.constraints.stops import until_stop
from weft.ir.constraints.tables import ConstraintTables, _known
from weft.ir.constraints.token_table import TokenTable, expression_of, token_table
from weft.ir.constraints.token_trie import TokenTrie
from weft.tests.each_time import examples
from weft.tests.ir.random_texts import random_text


@cache
def vocabulary():
    tokenizer = open_checkpoint("tiny-dense").tokenizer
    return tokenizer, TokenTrie.of(tokenizer)


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
        text = random_text(automaton_of, Random(seed)).decode()
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
