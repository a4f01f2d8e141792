"""The bench of constrained tokens: sides run in turn, in pages of their own, and tokens count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from weft.bench import constrained
from weft.bench.constrained import Batches
from weft.bench.constraints.programs import ROWS, Bench
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.simulator import ToyExecutor
from weft.tests.runtime.schedule.ahead import AheadExecutor, AheadSampler

SMALL = """
program take(text: str) -> str:
    user "{text}"
    assistant gen words(max_tokens=4): choice["shop", "web"]
    return words
"""


@pytest.mark.parametrize("ahead", [False, True])
def test_sides_run_in_pages_of_their_own_and_take_turns_on_a_cpu(monkeypatch, ahead):
    bench, placed, raced = Bench(), [], []
    kind = AheadExecutor if ahead else ToyExecutor
    model: Any = kind(4096, 900, 16, 4096, max_batch=ROWS, max_tokens=512)
    bench.take(model, AheadSampler(model) if ahead else sample_rows, None)
    share, turn = constrained.share_pages, constrained.in_turn

    def shared(engines, executor):
        share(engines, executor)
        placed.extend(range(*sorted((min(e.kv._free), max(e.kv._free) + 1))) for e in engines)

    def raced_in_turn(runs):
        raced.append([*runs])
        spent = turn(runs)
        assert all(seconds > 0 for seconds in spent.values())
        return dict.fromkeys(spent, 1.0)

    small = {"WARM": 0, "RECORD": SMALL, "PATTERN": 'regex "[a-z]{1,9}"', "ROWS": 1}
    for name, value in small.items():
        monkeypatch.setattr(constrained, name, value)
    monkeypatch.setattr(constrained, "share_pages", shared)
    monkeypatch.setattr(constrained, "in_turn", raced_in_turn)
    monkeypatch.setattr(constrained, "seconds", lambda run: run() or 1.0)
    found = constrained.speeds(rounds=1, bench=bench, sizes=(1, 2), times=2)
    assert placed == [range(300), range(300, 600), range(600, 900)]
    turns = [[f"{name} {n}" for name in ("record", "free", "pattern")] for n in (1, 2)]
    assert raced == ([] if ahead else turns)
    took = pytest.approx(5e5 / found["tokens_a_row"])  # two runs of one row, or one of two
    assert found["us_per_token"]["free 1"] == found["us_per_token"]["pattern 2"] == took
    assert found["pattern_vs_free_batch_1"] == 1.0 and found["record_vs_free_batch_2"] > 0


def test_a_row_that_fails_is_no_figure():
    class Failing:
        machine = SimpleNamespace(tokenizer=None)
        plan = SimpleNamespace(walk=lambda: [])

        def check_row(self, number, row):
            return row

        def session(self):
            return SimpleNamespace(steps=lambda jobs: iter([[(0, ValueError("no"))]]))

    with pytest.raises(ValueError, match="no"):
        list(Batches(Failing(), 1, 1, None).steps())  # type: ignore[arg-type]


def test_where_a_device_runs_ahead_each_runs_to_its_end_by_itself(monkeypatch):
    done = []
    sides = {
        name: SimpleNamespace(steps=lambda name=name: map(done.append, 2 * name), tokens=4)
        for name in "ab"
    }
    monkeypatch.setattr(constrained, "seconds", lambda run: run() or 2.0)
    assert constrained._alone(sides) == {"a": 0.5, "b": 0.5}  # type: ignore[arg-type]
    assert done == ["a", "a", "b", "b"]
