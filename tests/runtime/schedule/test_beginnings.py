"""What a device that does nothing begins with while more comes: the same tokens, in other steps."""

from __future__ import annotations

from itertools import count

import pytest
from weft.runtime import engine as engine_module
from weft.runtime import session
from weft.runtime.programs.asks import Asks
from weft.runtime.schedule import pace, whole_blocks
from weft.runtime.schedule.request import Request

ALIKE = """
program alike(text: str, more: str) -> str:
    "{text}{more}"
    gen said(max_tokens=6)
    return said
"""


def test_a_device_begins_with_what_others_wait_for(toy, monkeypatch):
    """The shared prompt goes first and alone; what comes meanwhile is one step, not several."""
    monkeypatch.setattr(pace.Pace, "enough", lambda self: 60)
    rows = [{"text": "A" * 100, "more": f" {number}."} for number in range(40)]
    executable = toy.compile(ALIKE, ahead=True, max_batch=64, max_tokens=400, num_pages=900)
    oracle, engine = toy.oracle(ALIKE), executable.engine
    prefills, pack = [], engine._batch.pack

    def packed(chunks):
        prefills.extend([sum(chunk.count for chunk in chunks)] if chunks else [])
        return pack(chunks)

    engine._batch.pack = packed
    busy = []

    def due(flight, waiting, rest):
        busy.append(waiting)
        return flight is None or waiting > 30

    engine._pace.due = due
    found = executable.run_rows(rows)
    assert found.values == [oracle(number, **row).value for number, row in enumerate(rows)]
    assert prefills[0] < 110 and len(prefills) <= 4 and max(busy) > 30
    toy.assert_clean(executable)


def test_rows_that_run_do_not_wait_for_rows_that_ask_for_nothing_new(toy, monkeypatch):
    executable = toy.compile(ALIKE, ahead=True, max_batch=64, max_tokens=400, num_pages=900)
    engine, begun = executable.engine, []
    kept = engine.create
    monkeypatch.setattr(engine, "create", lambda order: begun.append(engine.steps) or kept(order))
    rows = [{"text": "A", "more": "."}] * (pace.AT_ONCE + 3 * pace.IN_VAIN)
    assert len(set(executable.run_rows(rows).values)) == 1
    assert begun[pace.AT_ONCE :: pace.IN_VAIN] == [1, 2, 3]


TREE = """
program tree(root: str, owns: list[str]) -> list[str]:
    "{root}"
    fork own in owns as answers:
        "{own}"
        gen answer(max_tokens=6)
        yield answer
    return answers
"""


def test_an_idle_device_does_not_wait_for_the_other_branches(toy, monkeypatch):
    """The first branch computes what all share; the others become ready while it does."""
    monkeypatch.setattr(pace.Pace, "enough", lambda self: 60)
    row = {"root": "A" * 100, "owns": [f" {number}." for number in range(8)]}
    executable = toy.compile(TREE, ahead=True, max_batch=64, max_tokens=400, num_pages=900)
    engine, asked, begun = executable.engine, [], []
    submit, forward = engine.submit, engine.executor.forward
    monkeypatch.setattr(engine, "submit", lambda request: (asked.append(request), submit(request)))
    monkeypatch.setattr(engine.executor, "forward",
                        lambda *step: (begun.append(len(asked)), forward(*step))[1])  # fmt: skip
    found = executable.run_rows([row] * 2)
    assert begun[0] == 1 and begun[1] >= 8
    assert found.values == [toy.oracle(TREE)(number, **row).value for number in range(2)]
    toy.assert_clean(executable)


@pytest.mark.parametrize("together", [False, True])
def test_an_idle_device_begins_with_what_branches_share(toy, monkeypatch, together):
    """Its first step is asked for before any branch is, and the others are of whole blocks."""
    clock = count(step=5e-3)  # of a slow host, for whose rows a device does not wait
    for module in (engine_module, session, pace):
        monkeypatch.setattr(module, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(pace, "FIRST", 48)
    monkeypatch.setattr(pace, "BLOCK", 16)
    for name, value in {"BLOCK": 16, "LEAST": 16, "OVER": 12}.items():
        monkeypatch.setattr(whole_blocks, name, value)
    rows = [{"root": f"{row}" + "A" * (70 + row), "owns": [f" {n}. {n}{n}{n} " for n in range(4)]}
            for row in range(6)]  # fmt: skip
    executable = toy.compile(TREE, ahead=True, together=together, max_batch=32, max_tokens=400)
    engine, asked, steps, cut = executable.engine, [], [], []
    submit, pack, more = engine.submit, engine._batch.pack, engine._pace.more
    monkeypatch.setattr(engine, "submit", lambda request: (asked.append(request), submit(request)))
    monkeypatch.setattr(engine._pace, "more", lambda: steps.append([len(asked), more()])
                        or steps[-1][1])  # fmt: skip

    def packing(chunks):
        steps[-1].append(engine._batch.size + sum(chunk.count for chunk in chunks))
        return pack(chunks)

    engine._batch.pack = packing
    kept = whole_blocks._without
    monkeypatch.setattr(whole_blocks, "_without",
                        lambda *given: cut.append(kept(*given)) or cut[-1])  # fmt: skip
    found = executable.run_rows(rows)
    assert found.values == [toy.oracle(TREE)(n, **row).value for n, row in enumerate(rows)]
    assert steps[0] == [1, True, 64] and len(asked) == 1 + 6 * 4
    tokens = [step[2] for step in steps[1:] if step[1] and len(step) > 2]
    assert tokens and all(number % 16 in (0, 13, 14, 15) for number in tokens)
    assert cut
    toy.assert_clean(executable)


@pytest.mark.parametrize(
    ("length", "owns", "rows"), [(40, 2, 2), (90, 0, 2), (90, 1, 2), (90, 2, 1), (90, 2, 2)]
)
def test_a_device_does_so_for_several_branches_and_where_more_rows_come(
    toy, monkeypatch, length, owns, rows
):
    """And for enough tokens: of a row alone it would be a step more."""
    monkeypatch.setattr(pace, "FIRST", 48)
    monkeypatch.setattr(pace, "BLOCK", 16)
    asked: list[Request] = []
    ask = Asks._ask
    monkeypatch.setattr(Asks, "_ask", lambda self, *given: asked.append(given[1])
                        or ask(self, *given))  # fmt: skip
    executable = toy.compile(TREE, ahead=True, max_batch=32, max_tokens=400)
    row = {"root": "A" * length, "owns": [" 1.", " 2."][:owns]}
    found = executable.run_rows([row] * rows).values
    assert found == [toy.oracle(TREE)(number, **row).value for number in range(rows)]
    assert len(asked) == ((length, owns, rows) == (90, 2, 2))
    toy.assert_clean(executable)
