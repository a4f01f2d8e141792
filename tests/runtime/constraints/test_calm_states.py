"""Calm states: what the tables say of them, and that runs of them are as if each token was seen."""

import re
from random import Random

import numpy as np
import pytest
from weft.ir.constraints.token_table import token_table
from weft.ir.constraints.token_trie import TokenTrie
from weft.runtime import engine as engine_module
from weft.runtime.constraints import calm_states
from weft.runtime.constraints.table_matcher import TableConstraint
from weft.runtime.simulator import ToyTokenizer

WORDS = (" the", "hello", "ab", "abc", "a b", "12", "x1")

PATTERNS = ("[a-z ]{1,200}", "[a-z ]*!", "(?:[a-c]{40}[0-9]){1,4}", "[0-9]{9}[a-z]{70,90}=?")


def constraint(pattern):
    tokenizer = ToyTokenizer(WORDS)
    table = token_table("regex", pattern, tokenizer, TokenTrie.of(tokenizer))
    return TableConstraint(table, tokenizer, tokenizer.size)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("seed", range(4))
def test_calm_tokens_change_nothing(pattern, seed):
    of, random = constraint(pattern), Random(seed)
    calm = of.calm or [0] * len(of.table.moves)
    ends = set(of.words.tokenizer.end_ids)
    for start in np.flatnonzero(np.array(calm)).tolist():
        state, mask = start, of.mask(start, of.most)
        for _ in range(calm[start]):
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
            words = [word for word in np.flatnonzero(bits).tolist() if word not in ends]
            state = of.walk(state, [max(random.sample(words, 3), key=lambda w: len(of.words[w]))])
            assert state not in of.notable
            assert (of.mask(state, of.most) == mask).all()


def test_of_tables_with_many_moves_less_is_looked_ahead(monkeypatch):
    near = max(constraint("[a-z ]{1,270}").calm)
    monkeypatch.setattr(calm_states, "MANY_MOVES", 0)
    assert max(constraint("[a-z ]{1,700}").calm) <= near


def test_only_long_repeats_are_calm():
    assert max(constraint("[a-z ]{1,200}").calm) > 20
    assert max(constraint("[a-z ]{1,700}").calm) > 3 * max(constraint("[a-z ]{1,200}").calm)
    assert max(constraint("(?:[a-c]{40}[0-9]){1,4}").calm) > 3
    assert constraint("[a-z ]*!").calm is None  # any token may end it
    assert constraint("yes|no|[0-9]{1,7}").calm is None


PROGRAM = """
program p(n: int) -> str:
    user "{n}"
    if n % 3 == 0:
        assistant gen a(max_tokens=60, temperature=1.0): regex "[a-z ,.]{1,300}"
        return a
    elif n % 3 == 1:
        assistant gen b(max_tokens=40, temperature=1.0): regex "[a-z]{30,90}[0-9]{2}"
        return b
    assistant gen c(max_tokens=50, temperature=1.0)
    return c
"""


@pytest.mark.parametrize("pages", [256, 40])
def test_runs_of_calm_rows_are_the_oracles(toy, monkeypatch, pages):
    """Calm rows join, leave, are preempted and end beside others; few of their tokens are seen."""
    looked, plain = [], engine_module.take_tokens

    def counted(requests, rows, tokens, over):
        looked.append(sum(requests[row].watch is not None for row in rows))
        return plain(requests, rows, tokens, over)

    monkeypatch.setattr(engine_module, "take_tokens", counted)
    executable, oracle = toy.compile(PROGRAM, num_pages=pages), toy.oracle(PROGRAM)
    found = executable.run_rows([{"n": number} for number in range(24)])
    assert found.values == [oracle(number, n=number).value for number in range(24)]
    assert (found.stats.preemptions > 0) == (pages == 40)
    assert sum(looked) < 0.5 * found.stats.generated_tokens
    toy.assert_clean(executable)


def test_calm_rows_are_looked_at_when_their_budget_begins_to_count(toy):
    """Behind thirty letters some take more than is left: while enough is, any letter may come."""
    pattern = "[a-z]{30}(?:[a-m][a-z]{60}|[n-z][a-z]{20})[0-9]"
    text = """
program p(n: int) -> str:
    user "{n}"
    assistant gen a(max_tokens=75, temperature=1.0): regex "PATTERN"
    return a
""".replace("PATTERN", pattern)
    executable, oracle = toy.compile(text), toy.oracle(text)
    found = executable.run_rows([{"n": number} for number in range(6)])
    assert found.values == [oracle(number, n=number).value for number in range(6)]
    assert all(re.fullmatch(pattern, value) for value in found.values)
    toy.assert_clean(executable)
