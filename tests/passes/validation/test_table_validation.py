"""The validation of token tables: it accepts what is compiled, and finds each planted fault."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.constraints.automaton import START
from weft.ir.constraints.token_table import TokenTable, token_table
from weft.ir.constraints.token_trie import TokenTrie
from weft.passes.manager import Context, run_passes
from weft.passes.program.plans.constraints import CompileConstraints
from weft.passes.validation.registry import ChangedMeaning, validation
from weft.passes.validation.tables import STATES, mask_problems, text_problems
from weft.runtime.simulator import ToyTokenizer

TOKENIZER = ToyTokenizer((" the", "ab", '": ', '{"', "12", "é"))
PATTERN = "(?:ab|b[0-9]{1,3}|é) the"
SOURCES = [
    ("regex", PATTERN),
    ("regex", "[^a\\n]*x?"),
    ("json", {"type": "integer", "minimum": -3, "maximum": 120}),
    (
        "json",
        {
            "type": "object",
            "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "yé"]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    ),
]


@cache
def compiled(number: int = 0) -> TokenTable:
    return token_table(*SOURCES[number], TOKENIZER, TokenTrie.of(TOKENIZER))


@pytest.mark.parametrize("number", range(len(SOURCES)))
def test_a_compiled_table_holds(number):
    table = compiled(number)
    assert list(mask_problems(table, TOKENIZER)) == []
    assert list(text_problems(table, *SOURCES[number])) == []


def test_a_wrong_mask_is_found():
    masks = compiled().masks.copy()
    masks[:, 1] ^= 4
    found = list(mask_problems(replace(compiled(), masks=masks), TOKENIZER))
    assert found and "wrong" in found[0]


def test_a_wrong_distance_is_found():
    distance = compiled().distance.copy()
    distance[1] = 0
    found = list(mask_problems(replace(compiled(), distance=distance), TOKENIZER))
    assert any("tokens from an end, not 0" in problem for problem in found)


def test_a_token_forced_where_two_may_follow_is_found():
    table = compiled()
    forced_at = np.concatenate([[0, 0], np.full(len(table.moves) - 1, 1)]).astype(np.int32)
    planted = replace(table, forced=np.array(TOKENIZER.encode("b"), np.int32), forced_at=forced_at)
    assert planted.forced_tokens(1)
    assert any("may follow" in problem for problem in mask_problems(planted, TOKENIZER))


def test_another_language_is_found():
    assert any("allows" in each for each in text_problems(compiled(), "regex", PATTERN + "x"))
    assert any("no JSON" in each for each in text_problems(compiled(), "json", {}))
    moves = compiled().moves.copy()
    moves[compiled().walk(b"b1"), compiled().classes[ord("2")]] = 0
    planted = replace(compiled(), moves=moves)
    assert any("does not allow" in each for each in text_problems(planted, "regex", PATTERN))


def test_the_pass_manager_finds_a_wrong_table(monkeypatch):
    file = parse_text('program p():\n    "x"\n    gen a: regex "(?:ab|b) the"\n    gen b: bool\n')
    check(file)
    context = Context(
        tokenizer=TOKENIZER, constraint_of=constraint_of, validate=validation()
    )  # fmt: skip
    run_passes((CompileConstraints(),), lower(file), context)
    assert context.tables is not None
    (first, *_) = context.tables.by_key
    table = context.tables.by_key[first]
    planted = replace(table, masks=~table.masks)
    monkeypatch.setattr(type(context.tables), "find", lambda self, *constraint: planted)
    with pytest.raises(ChangedMeaning, match="gen a: state .* wrong"):
        run_passes((CompileConstraints(),), lower(file), context)


def test_a_wrong_mask_of_any_single_state_is_found():
    table = token_table("regex", "[a-z]{60}", TOKENIZER, TokenTrie.of(TOKENIZER))
    assert len(table.moves) > 2 * STATES
    spread = np.linspace(START, len(table.moves) - 1, STATES).astype(int)
    state = next(each for each in range(START, len(table.moves)) if each not in spread)
    masks, mask_of = table.masks.copy(), table.mask_of.copy()
    wrong = masks[mask_of[state, -1]].copy()
    wrong[0] ^= 1
    mask_of[state, -1] = len(masks)
    planted = replace(table, masks=np.vstack([masks, wrong]), mask_of=mask_of)
    (found,) = mask_problems(planted, TOKENIZER)
    assert found.startswith(f"state {state} ")
