"""Constrained gens through the engine: budgets hold, ends are canonical, the oracle agrees."""

import json

import numpy as np
import pytest
from weft.frontend.semantics.constraints import constraint_of, records_of
from weft.ir.constraints.tables import ConstraintTables
from weft.ir.types import record
from weft.runtime import engine as engine_module
from weft.runtime.engine import Engine
from weft.runtime.programs.events import TextPiece
from weft.runtime.schedule.row_costs import HitCounter

TEXT = """
record Item:
    name: str(max_tokens=4)
    count: int(1..20)

record Order:
    customer: str(max_tokens=6)
    items: list[Item](max_items=2)
    express: bool
    kind: choice["shop", "web"]

program take(text: str) -> list[str]:
    user "{text}"
    assistant gen order(max_tokens=BUDGET, temperature=1.0, seed=SEED): Order
    user "And?"
    assistant:
        "It is "
        gen kind(temperature=1.0, seed=SEED): choice["web page", "web site", "other"]
    return [order.customer, kind]
"""


def program(budget: int, seed: int) -> str:
    return TEXT.replace("BUDGET", str(budget)).replace("SEED", str(seed))


@pytest.fixture(scope="module")
def least(toy):
    """The tokens of the shortest order."""
    records = records_of(toy.lowered(program(9, 0)))
    found = constraint_of(record("Order"), records)
    return int(ConstraintTables(toy.tokenizer).find(*found).distance[1])


@pytest.mark.parametrize("more", [0, 1, 2, 5, 11, 23, 60])
def test_a_record_is_whole_whatever_its_budget_if_it_can_be(toy, least, more):
    for seed in range(4):
        text = program(least + more, seed)
        executable = toy.compile(text)
        result = executable.run(text="An order.")
        expected = toy.oracle(text)(text="An order.")
        assert result.value == expected.value
        assert toy.tokenizer.decode(expected.ids).startswith(result.text)
        order = result.values["order"]
        assert set(order) == {"customer", "items", "express", "kind"}
        assert json.dumps(order, ensure_ascii=False) in result.text
        toy.assert_clean(executable)


def test_the_streams_tokens_are_canonical(toy, least):
    for seed in range(8):
        ids = toy.oracle(program(least + 20, seed))(text="An order.").ids
        special = toy.tokenizer.special_ids
        run: list[int] = []
        for id in [*ids, min(special)]:
            if id not in special:
                run.append(id)
            elif run:
                assert toy.tokenizer.encode(toy.tokenizer.decode(run)) == run
                run = []


def test_a_stream_shows_the_opening_first(toy):
    text = (
        'program p() -> str:\n    assistant:\n        "Say: "\n'
        '        gen answer: regex "The answer is [a-z]{2,5}!"\n    return answer\n'
    )
    events = list(toy.compile(text).stream())
    pieces = [event.text for event in events if isinstance(event, TextPiece)]
    value = events[-1].result.value
    assert "".join(pieces) == value and value.startswith("The answer is ")
    assert pieces[0].startswith("The answer")


def test_rows_of_several_constraints_and_free_text_share_a_batch(toy):
    text = (
        'program p(n: int) -> str:\n    user "{n}"\n    if n % 3 == 0:\n'
        '        assistant gen a(max_tokens=9, temperature=1.0): regex "[a-c]{3,30}"\n'
        "        return a\n    elif n % 3 == 1:\n"
        "        assistant gen b(max_tokens=9, temperature=1.0): int(5..4000)\n"
        '        return "{b}"\n    assistant gen c(max_tokens=9, temperature=1.0)\n    return c\n'
    )
    rows = [{"n": number} for number in range(12)]
    values = toy.compile(text).run_rows(rows).values
    oracle = toy.oracle(text)
    assert values == [oracle(number, **row).value for number, row in enumerate(rows)]
    assert all(set(value) <= set("abc") for value in values[::3])


QUIET = (
    'program p(text: str) -> str:\n    user "{text}"\n'
    '    assistant gen a(max_tokens=90, temperature=1.0): regex "(?:[a-c ]{60}[0-9]){1,4}"\n'
    "    return a\n"
)
"""Its rows are all in calm states for some steps at a time, and end or leave them one by one."""


@pytest.mark.parametrize("seed", [*range(3), "quiet"])
def test_a_mask_left_alone_is_the_one_that_would_be_written(toy, least, monkeypatch, seed):
    """Rows join, leave and move between steps; some masks stay, and each is its matcher's."""
    stayed, changed, quiet, plain = 0, 0, 0, engine_module.fill_masks

    def checked(batch):
        nonlocal stayed, changed, quiet
        before, skipped, size = list(batch.shown), batch.is_quiet(), batch.size
        assert not skipped or (batch.calm[:size] >= batch.produced[:size]).all()
        plain(batch)
        for row, request in enumerate(batch.requests):
            left, watch = int(batch.limit[row] - batch.produced[row]), request.watch
            matcher, seen = watch.matcher.fork(), slice(batch.seen[row], batch.produced[row])
            matcher.state = matcher.constraint.walk(matcher.state, batch.history[row, seen])
            fresh = np.zeros_like(batch.masks[:1])
            matcher.fill(fresh, 0, left)
            assert (batch.masks[row] == fresh[0]).all()
            same = before[row] is batch.shown[row]
            stayed, changed, quiet = stayed + same, changed + (not same), quiet + skipped
        assert (batch.masks[batch.size :] == -1).all()

    monkeypatch.setattr(engine_module, "fill_masks", checked)
    executable = toy.compile(QUIET if seed == "quiet" else program(least + 25, seed))
    executable.run_rows([{"text": f"Order {number}."} for number in range(12)])
    assert stayed and changed and bool(quiet) is (seed == "quiet")


def test_a_stop_string_ends_a_whole_text(toy):
    text = (
        'program p(n: int) -> str:\n    user "{n}"\n'
        '    assistant gen a(max_tokens=12, temperature=1.0, stop=["\\n", ", "]): '
        'regex "[0-9a-f]{2,60}(?:, [0-9]{1,40})?"\n    return a\n'
    )
    executable, oracle = toy.compile(text), toy.oracle(text)
    (constraint,) = [op for op in executable.plan.operations if op.name == "plan.constraint"]
    assert tuple(constraint["stop"]) == ("\n", ", ")
    values = executable.run_rows([{"n": number} for number in range(40)]).values
    assert values == [oracle(number, n=number).value for number in range(40)]
    # A comma ends the text: what follows it in the pattern never comes.
    assert all(len(value) >= 2 and "," not in value and "\n" not in value for value in values)


def test_forced_tokens_are_no_prompt_that_is_looked_up_again(toy, monkeypatch):
    """A record's forced tokens take it out of the batch often; its prompt is found once."""
    begins, returns = [], []
    plain, force = HitCounter.begins, Engine._force_row

    def counted(self, request):
        begins.append(request)
        plain(self, request)

    def returned(self, request, row):
        returns.append(request)
        force(self, request, row)

    monkeypatch.setattr(HitCounter, "begins", counted)
    monkeypatch.setattr(Engine, "_force_row", returned)
    text = program(80, 3)
    result = toy.compile(text).run(text="An order.")
    assert len(returns) > 4 and len(begins) == len(set(begins))
    assert result.value == toy.oracle(text)(0, text="An order.").value


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize("pattern", ["[[a]b", "(?i)[[a]b", "(?i)[:&&~~]b"])
def test_a_class_of_brackets_means_what_python_means(toy, pattern):
    """Its text was held to a set operation, and then was no text of the pattern."""
    text = f"""
program p(arg: str) -> str:
    "{{arg}}"
    gen found(max_tokens=4, temperature=2.0): regex "{pattern}"
    return found
"""
    for seed in range(4):
        executable = toy.compile(text, seed=seed)
        found = executable.run(arg="hello").value
        assert found == toy.oracle(text, seed=seed)(0, arg="hello").value and len(found) == 2
