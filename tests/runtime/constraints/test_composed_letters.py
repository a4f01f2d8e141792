"""Constrained gens where the tokenizer composes letters (NFC, as Qwen's): the text stays."""

from __future__ import annotations

import unicodedata

import pytest
from llguidance import LLMatcher
from weft.ir.constraints.tables import ConstraintTables
from weft.runtime.constraints.guided import GuidedMatcher, grammar_of, guide
from weft.runtime.simulator import ToyTokenizer

APART = "e\u0301"  # an e and its accent, which NFC makes one letter


class Composing(ToyTokenizer):
    """The toy's tokenizer behind NFC."""

    digest = "composes letters"

    def encode(self, text):
        return super().encode(unicodedata.normalize("NFC", text))


@pytest.fixture(scope="module")
def composing(toy):
    return type(toy)(Composing((" the", "hello", "ab", "ing", "caf", "\u00e9")))


TYPES = (
    f'regex "{APART}"',
    f'regex "[AB]{{3}}{APART}"',
    f'regex "[AB]{APART}[xy]"',
    f'regex "{APART}ab|{APART}ba"',
    f'choice["caf{APART}", "{APART}bc", "xyz"]',
    f'regex "(?i)[ab]{APART}"',
)


@pytest.mark.parametrize("type", TYPES)
def test_what_a_constraint_lets_through_is_the_value(composing, type):
    text = f"""
program p(arg: str) -> list[str]:
    "{{arg}}"
    gen w(max_tokens=24, temperature=1.0): {type}
    gen more(max_tokens=3)
    return [w, more]
"""
    executable, oracle = composing.compile(text, seed=4), composing.oracle(text, seed=4)
    rows = [{"arg": word} for word in ("hello", "e", APART, "caf")]
    found = executable.run_rows(rows).values
    assert found == [oracle(number, **row).value for number, row in enumerate(rows)]
    assert any(APART in word for word, _ in found)
    composing.assert_clean(executable)


def test_forced_tokens_spell_the_bytes_that_must_follow(composing):
    tokenizer = composing.tokenizer
    table = ConstraintTables(tokenizer).find("regex", f"[AB]ab{APART}")
    state = table.walk(b"A")
    forced = table.forced_tokens(state)
    assert forced and b"ab".startswith(b"".join(map(tokenizer.token_bytes, forced)))


def test_the_library_is_told_the_same(composing):
    tokenizer = composing.tokenizer
    words = guide(tokenizer, tokenizer.size, tokenizer.end_ids)
    matcher = GuidedMatcher(LLMatcher(words, grammar_of("regex", f"{APART}ab")), "pattern")
    said = b""
    while ids := matcher.forced():
        for id in ids:
            said += tokenizer.token_bytes(id)
            matcher.accept(id)
    assert f"{APART}ab".encode().startswith(said) and said
