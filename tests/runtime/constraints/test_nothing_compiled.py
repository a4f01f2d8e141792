"""No grammar is compiled while a program runs, whatever kind of constraint holds a gen."""

from __future__ import annotations

import json
from collections import Counter

import llguidance
import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.open import open_program
from weft.ir.constraints.tables import ConstraintTables
from weft.runtime.constraints import guided, stops, whole
from weft.runtime.constraints.constraint import Constraints

TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "below": {"$ref": "#"}},
    "required": ["name"],
    "additionalProperties": False,
}
FILES = {
    "nested.lark": 'start: "(" start ")" | "x"\n',
    "tree.json": json.dumps(TREE),
    "number.json": json.dumps({"type": "integer", "minimum": 100000, "maximum": 999999}),
}
TYPES = {
    "a grammar": 'grammar "nested.lark"',
    "a recursive schema": 'schema "tree.json"',
    "a schema with a table": 'schema "number.json"',
    "a pattern with a table": 'regex "[a-z]{1,40}"',
    "a pattern without one": 'regex "(?i)hello( the)*"',
    "a choice": 'choice["hello", "the"]',
    "a number": "int(1..200000)",
}


class Counting:
    """What makes something, and counts how often."""

    def __init__(self, plain, made):
        self._plain, self._made = plain, made

    def __call__(self, *values, **options):
        self._made[self._plain.__name__] += 1
        return self._plain(*values, **options)

    def __getattr__(self, name):
        return getattr(self._plain, name)


@pytest.fixture
def made(monkeypatch):
    """How often something was compiled, by its name."""
    found: Counter[str] = Counter()
    matcher = Counting(llguidance.LLMatcher, found)
    for owner in (guided, llguidance):
        monkeypatch.setattr(owner, "LLMatcher", matcher)
    monkeypatch.setattr(guided, "guide", Counting(guided.guide, found))
    find = ConstraintTables.find

    def counted(*values, **options):
        found["find"] += 1
        return find(*values, **options)

    monkeypatch.setattr(ConstraintTables, "find", counted)
    return found


@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
def test_a_run_compiles_nothing(toy, tmp_path, made, monkeypatch, type):
    """Also where the budget ends a text, and it is asked whether that is a whole one."""
    for file, content in FILES.items():
        (tmp_path / file).write_text(content)
    program = tmp_path / "p.weft"
    program.write_text(
        f'program p(n: int) -> str:\n    "{{n}}:"\n    gen a(max_tokens=2): {type}\n'
        '    return "{a}"\n'
    )
    executable = toy.compile(lower(open_program(program).file))
    assert made
    whole._kept.cache_clear()
    asked = []
    plain = Constraints.whole
    monkeypatch.setattr(Constraints, "whole", lambda *values: asked.append(1) or plain(*values))
    made.clear()
    executable.run_rows([{"n": n} for n in range(6)], keep_going=True)
    assert not made
    assert asked or not type.startswith(("grammar", "schema"))


@pytest.mark.parametrize("stop", ['regex "[.!?][ab]"', '["hello", "ab"]'])
def test_stops_are_compiled_at_load(toy, stop):
    text = f"program p() -> str:\n    gen a(max_tokens=9, stop={stop})\n    return a\n"
    known = stops._ending, stops._looked_for
    for cache in known:
        cache.cache_clear()
    executable = toy.compile(text)
    before = [cache.cache_info().misses for cache in known]
    assert any(before)
    executable.run()
    assert [cache.cache_info().misses for cache in known] == before
