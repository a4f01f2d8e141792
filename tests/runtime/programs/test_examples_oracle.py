"""Every shipped example gives the oracle's values: on a toy model, and on a shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from weft.compiler import Compilation
from weft.frontend.lowering.lower import lower
from weft.frontend.open import open_program
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.ir.diagnostics import RunError
from weft.options import Options
from weft.runtime.execution.step import StepInput
from weft.runtime.reference import Reference

EXAMPLES = Path(__file__).parents[3] / "examples"
QUICK = {"essay_judge", "retry"}
ALL = [path.stem for path in sorted((EXAMPLES / "data").glob("*.jsonl"))]
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ALL]
OPTIONS = Options(kv_memory=16 << 20, max_tokens=96, threads=1)


class OneCallAtATime:
    """Logits after a list of tokens, from one plain sequence: no paging, no batch."""

    def __init__(self, executor) -> None:
        self._executor = executor
        self._known: list[int] = []

    def __call__(self, ids) -> torch.Tensor:
        ids = list(ids)
        start = 0
        while start < min(len(ids) - 1, len(self._known)) and ids[start] == self._known[start]:
            start += 1
        logits = torch.empty(0)
        while start < len(ids):
            end = min(len(ids), start + self._executor.max_tokens)
            logits = self._executor.forward(self._step(ids, start, end))
            start = end
        self._known = ids
        return logits[0].clone()

    def _step(self, ids, start, end) -> StepInput:
        def ints(values):
            return torch.tensor(list(values), dtype=torch.int32)

        pages = -(-self._executor.context_length // self._executor.page_size)
        return StepInput(
            ints(ids[start:end]), ints(range(start, end)), ints(range(start, end)),
            ints([0, end - start]), ints([end]), ints(range(pages))[None], ints([end - start - 1]),
        )  # fmt: skip


def close(found, expected) -> bool:
    """Whether values are equal; log-probabilities may differ in float32's last digits."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-4)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(map(close, found.values(), expected.values()))
    return found == expected


def rows_of(name, count=2):
    lines = (EXAMPLES / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


def outcome(run):
    """What a run gives: its values, or what a user is told instead."""
    try:
        return run().value
    except RunError as error:
        return type(error)


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted((EXAMPLES / "data").glob("*.jsonl"))]
)
def test_an_example_on_a_toy_equals_the_oracle(toy, name):
    opened = open_program(EXAMPLES / f"{name}.weft")
    check(opened.file)
    module = lower(opened.file)
    executable = toy.compile(module, opened.tools, num_pages=4000)
    oracle, rows = toy.oracle(module, opened.tools), rows_of(name)
    assert all(op["name"].name in opened.tools for op in module.operations
               if op.name == "program.tool")  # fmt: skip
    expected = [outcome(lambda n=n, row=row: oracle(n, **row)) for n, row in enumerate(rows)]
    jobs = enumerate(executable.check_row(number, row) for number, row in enumerate(rows))
    found = {}
    for ended in executable.session().steps(jobs):
        found.update(ended)
    for number, value in enumerate(expected):
        got = found[number]
        assert (type(got) if isinstance(got, Exception) else got.value) == value
    toy.assert_clean(executable)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_equals_the_oracle(name):
    compilation = Compilation(EXAMPLES / f"{name}.weft", "tiny-dense", options=OPTIONS)
    executable = compilation.executable()
    executor = Compilation(EXAMPLES / f"{name}.weft", "tiny-dense", options=OPTIONS).executor
    checkpoint = compilation.checkpoint
    oracle = Reference(
        compilation.lowered, compilation.program_name, OneCallAtATime(executor),
        checkpoint.tokenizer, checkpoint.chat, constraint_of, compilation.opened.tools,
    )  # fmt: skip
    rows = rows_of(name)
    jobs = enumerate(executable.check_row(number, row) for number, row in enumerate(rows))
    for ended in executable.session().steps(jobs):
        for number, outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
            expected = oracle.run(number, **rows[number])
            assert close(outcome.values, expected.values)
            assert close(outcome.value, expected.value)
            assert checkpoint.tokenizer.decode(expected.ids).startswith(outcome.text)
            assert outcome.stats.hits_predicted == outcome.stats.hits_measured
    executable.engine.check()
    assert executable.engine.kv.live == 0
