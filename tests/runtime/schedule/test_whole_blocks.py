"""Steps of prompts of whole blocks, and what a device that does nothing begins with: the same
tokens, in other steps."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.runtime import engine as engine_module
from weft.runtime import session
from weft.runtime.programs.asks import Asks
from weft.runtime.schedule import pace, whole_blocks
from weft.runtime.schedule.batch import Chunk
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.schedule.whole_blocks import BLOCK, FEW, LEAST, OVER, packed

TREE = """program tree(root: str, owns: list[str]) -> list[str]:
    "{root}"
    fork own in owns as answers:
        "{own}"
        gen answer(max_tokens=6)
        yield answer
    return answers
"""


def chunk_of(number: int, count: int, rest: int) -> Chunk:
    """A chunk that ends a prompt if there is no rest; every third only fills."""
    sequence: Any = SimpleNamespace(length=10 + count + rest)
    sampling = Sampling(1) if number % 3 < 2 else None
    return Chunk(Request(sequence, str(number), sampling), 10, count)


@given(
    counts=st.lists(st.tuples(st.integers(1, 700), st.integers(0, 1), st.booleans()), max_size=9),
    running=st.integers(0, 300), more=st.booleans(),
)  # fmt: skip
def test_what_is_over_waits_if_more_comes_and_nobody_reads_it(counts, running, more):
    chunks = [chunk_of(number, count, rest) for number, (count, rest, _) in enumerate(counts)]
    read = {str(number) for number, (_, _, is_read) in enumerate(counts) if is_read}
    reads = lambda chunk: chunk.request.name in read  # noqa: E731
    found = packed(list(chunks), running, reads if more else None)
    before = {chunk.request.name: chunk for chunk in chunks}
    assert [not chunk.joins for chunk in found] == sorted(not chunk.joins for chunk in found)
    assert sorted(before) == sorted(chunk.request.name for chunk in found)
    cut = [c for c in found if c is not before[c.request.name]]
    assert all(c.start == 10 and 0 < c.count < before[c.request.name].count for c in cut)
    assert not any(map(reads, cut)) and not any(c.joins for c in cut) and len(cut) <= FEW
    assert all(c.request.sampling for c in cut)
    tokens, left = (running + sum(c.count for c in some) for some in (chunks, found))
    may_go = sum(c.count - 1 for c in chunks[-FEW:] if c.request.sampling and not reads(c))
    if more and tokens - tokens % BLOCK >= LEAST and 0 < tokens % BLOCK <= min(OVER, may_go):
        assert left == tokens - tokens % BLOCK
    else:
        assert not cut


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
