"""Token tables against llguidance, token by token: masks, forced runs, ends; faults are found.

Where the two may differ on purpose: llguidance also spells zero as `-0` (one spelling a value
here), and knows `\\d \\w \\s` by another version of Unicode (random patterns hold none), and
forces a token more where a longer one could begin inside of it, but never does in canonical text.
"""

import json
import re
from dataclasses import replace
from functools import cache
from random import Random

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from weft.bench.constraints.random_schemas import random_schema
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.constraints.automaton import NotRegular
from weft.ir.constraints.token_table import TokenTable, token_table
from weft.ir.constraints.token_trie import TokenTrie
from weft.runtime.constraints.guided import GuidedMatcher, grammar_of, guide
from weft.runtime.constraints.table_matcher import TableConstraint
from weft.runtime.simulator import ToyTokenizer
from weft.tests.each_time import each_time, examples

WORDS = (
    " the",
    "hello",
    '": ',
    '", "',
    '{"',
    " A",
    " B",
    "a b",
    "ab",
    "ba",
    "aé",
    "1, ",
    '"}',
    "}}",
)
MINUS_ZERO = re.compile(rb"(?:^|[ \[(:])-0")
"""llguidance writes a zero with a minus sign; the tables do not."""

TRAILING_ZERO = re.compile(rb"-0\.[0-9]*0$")
"""llguidance ends no fraction between -1 and 0 with a zero; the tables do."""


class Vocabulary:
    """A tokenizer with its trie and its guide."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.trie = TokenTrie.of(tokenizer)
        self.guide = guide(tokenizer, tokenizer.size, tokenizer.end_ids)

    def table(self, kind, source) -> TokenTable:
        return token_table(kind, source, self.tokenizer, self.trie)

    def guided(self, kind, source, heal=""):
        inner = LLMatcher(self.guide, grammar_of(kind, source, heal))
        assert not inner.is_error(), inner.get_error()
        return GuidedMatcher(inner, "oracle")

    def allowed(self, matcher) -> set[int]:
        words = np.zeros((1, -(-self.tokenizer.size // 32)), np.int32)
        matcher.fill(words, 0)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        return set(np.flatnonzero(bits).tolist())


@cache
def vocabulary(name: str) -> Vocabulary:
    if name == "toy":
        return Vocabulary(ToyTokenizer(WORDS))
    return Vocabulary(open_checkpoint(name).tokenizer)


def goes_on(of: Vocabulary, kept: list[int], run: list[int]) -> bool:
    """Whether a token of the vocabulary begins inside of a run, behind what is kept of it, and is
    longer than the run's rest."""
    words = [of.tokenizer.token_bytes(token) for token in range(of.tokenizer.size)]
    data, size = b"".join(words[token] for token in run), sum(len(words[token]) for token in kept)
    rests = [data[cut:] for cut in range(size, len(data))]
    return any(len(word) > len(rest) and word.startswith(rest) for word in words for rest in rests)


def disagreement(of: Vocabulary, table, guided, random: Random, heal="", steps=40) -> str | None:
    """Walk both along random allowed tokens; return where they differ first."""
    mine = TableConstraint(table, of.tokenizer, of.tokenizer.size).start(heal)
    text = b""
    for _ in range(steps):
        if mine.is_complete() != guided.is_complete():
            return f"after {text!r}: complete {mine.is_complete()}, not {guided.is_complete()}"
        if mine.is_complete():
            return None
        expected, found = of.allowed(guided), of.allowed(mine)
        run, forced = guided.forced(), mine.forced()
        if len(forced) < len(run) and run[: len(forced)] == forced and goes_on(of, forced, run):
            # Tables give back a token that a longer one could begin inside of, llguidance one that
            # its canonical way on changes: what tables allow then spells the same bytes.
            data = b"".join(map(of.tokenizer.token_bytes, run))
            spelled = [of.tokenizer.token_bytes(token) for token in found]
            if not all(data.startswith(word) or word.startswith(data) for word in spelled):
                return f"after {text!r}: {data!r} is forced, not {spelled[:5]}"
            found, run = found & expected, forced
        unexplained = {
            token
            for token in expected - found
            if not MINUS_ZERO.search(text + of.tokenizer.token_bytes(token))
        }
        more = set() if TRAILING_ZERO.search(text) else found - expected
        if more or unexplained:
            words = [of.tokenizer.token_bytes(t) for t in [*more, *unexplained]]
            return f"after {text!r}: masks differ in {words[:5]}"
        if forced != run and expected == found:
            return f"after {text!r}: forced {forced}, not {guided.forced()}"
        token = forced[0] if forced else random.choice(sorted(found & expected))
        if token in of.tokenizer.end_ids:
            return None
        mine.accept(token)
        guided.accept(token)
        text += of.tokenizer.token_bytes(token)
    return None


LITERALS = st.text("ab 1é{},", min_size=1, max_size=4).map(
    lambda text: re.sub(r"[{}]", r"\\\g<0>", text)
)
ATOMS = st.one_of(LITERALS, st.sampled_from(["[a-c]", "[^a\\n]", ".", "[0-9]", "[é-ü]", "the"]))
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{1,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)
SLOW = settings(
    deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("name", ["toy", "tiny-dense"])
@pytest.mark.parametrize("heal", ["", " "])
def test_patterns_agree_with_llguidance(name, heal):
    @SLOW
    @given(PATTERNS, st.integers(0, 1000))
    def check(pattern, seed):
        of, random = vocabulary(name), Random(seed)
        table = of.table("regex", pattern)
        for _ in range(3):
            guided = of.guided("regex", pattern, heal)
            assert disagreement(of, table, guided, random, heal) is None

    check()


@pytest.mark.parametrize("name", ["toy", "tiny-dense"])
def test_schemas_agree_with_llguidance(name):
    @SLOW
    @given(st.integers(0, 10**6))
    def check(seed):
        of, random = vocabulary(name), Random(seed)
        schema = random_schema(random)
        table = of.table("json", schema)
        for _ in range(3):
            guided = of.guided("json", schema)
            assert disagreement(of, table, guided, random, steps=80) is None, schema

    check()


LISTED = [
    {"enum": ["a\nb", "a\tb", "ab"]},
    {"const": "\x01\x1f\r\b\f"},
    {"type": "array", "items": {"type": "string", "enum": ["\n", ""]}, "maxItems": 2},
    {"type": "object", "properties": {"k\n": {"const": "v\n"}, "free": {"type": "string"}},
     "required": ["k\n"], "additionalProperties": False},
]  # fmt: skip


def said(of, matcher, random):
    data = b""
    while not matcher.is_complete():
        tokens = matcher.forced() or [random.choice(sorted(of.allowed(matcher)))]
        if tokens[0] in of.tokenizer.end_ids:
            break
        for token in tokens:
            matcher.accept(token)
            data += of.tokenizer.token_bytes(token)
    return data.decode()


@pytest.mark.parametrize("schema", LISTED, ids=str)
@pytest.mark.parametrize("heal", each_time(["", " "], " "))
def test_listed_texts_keep_their_control_characters(schema, heal):
    of, random = vocabulary("tiny-dense"), Random(1)
    of_table = TableConstraint(of.table("json", schema), of.tokenizer, of.tokenizer.size)
    for _ in range(12):
        for matcher in (of_table.start(heal), of.guided("json", schema, heal)):
            value = json.loads(said(of, matcher, random))
            jsonschema.validate(value, schema)


@pytest.mark.parametrize(
    "pattern", [r"^a\nb$", "^a\tb$", r"^a\x01[\n]?b$", r"^\\n$", r"^[\[\n]\]\r$", r"^\[\f]$"]
)
def test_patterns_of_schemas_keep_the_control_characters_that_they_write_out(pattern):
    of = vocabulary("tiny-dense")
    schema = {"type": "string", "pattern": pattern}
    assert re.search(pattern, json.loads(said(of, of.guided("json", schema), Random(1))))


RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[^\\x00-\\x1f]{0,12}$"},
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
    },
    "required": ["name", "score"],
    "additionalProperties": False,
}


def test_a_wrong_bit_in_a_mask_is_found():
    of = vocabulary("tiny-dense")
    table = of.table("json", RECORD)
    masks = table.masks.copy()
    masks ^= 1 << 7
    planted = replace(table, masks=masks)
    assert disagreement(of, table, of.guided("json", RECORD), Random(1)) is None
    found = disagreement(of, planted, of.guided("json", RECORD), Random(1))
    assert found is not None and "masks differ" in found


def test_a_wrong_transition_is_found():
    of = vocabulary("tiny-dense")
    table = of.table("json", RECORD)
    moves = table.moves.copy()
    inside = table.walk(b'{"name": "ab')
    moves[inside, table.classes[ord("c")]] = table.walk(b'{"name": "ab"')
    planted = replace(table, moves=moves)
    found = [
        disagreement(of, planted, of.guided("json", RECORD), Random(seed)) for seed in range(60)
    ]
    assert any(found)


@pytest.mark.parametrize(
    "kind, source, why",
    [
        ("regex", r"(?=a)b", "assert"),
        ("regex", r"(a)\1", "groupref"),
        ("regex", r"a\bb", "anchor"),
        ("regex", r"(?i)a", "flags"),
        ("regex", "(?:[a-z]{0,5000} [A-Z]{0,5000})", "positions|states"),
        ("json", {"type": "object"}, "additionalProperties"),
        ("json", {"type": "array"}, "any JSON value"),
        (
            "json",
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
            },
            "itself",
        ),
        ("json", {"type": "string", "format": "date"}, "format"),
        ("lark", "start: /a/", "context-free"),
    ],
)
def test_what_is_left_to_llguidance_says_why(kind, source, why):
    of = vocabulary("toy")
    with pytest.raises(NotRegular, match=why):
        of.table(kind, source)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize(
    "pattern",
    ["[[a]", "[a&&b]", "[+--]", "[--a]", "[0-9--/]", "[----]", "[]-a]", "[^]&-~]", "[a~~b]"],
)
def test_llguidance_reads_classes_as_python_does(pattern):
    """Its own syntax has operations on sets in them."""
    of = vocabulary("toy")
    allowed = of.allowed(of.guided("regex", f"(?i){pattern}+"))
    for character in map(chr, range(32, 127)):
        (token,) = of.tokenizer.encode(character)
        assert (token in allowed) == bool(re.fullmatch(f"(?i){pattern}", character)), character
