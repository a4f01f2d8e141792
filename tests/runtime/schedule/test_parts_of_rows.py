"""Rows are held to claims of few parts where that fills steps, and where all of them are open."""

from __future__ import annotations

import pytest
from weft.runtime.schedule.forecast import PARTS, held_rows

CRITICS = """
program critic(side: str) -> str:
    "About the {side}: "
    gen opinion(max_tokens=16, temperature=1.5)
    return opinion

program main(arg: str) -> list[str]:
    "Of {arg}: "
    let said: list[str] = []
    for side in ["p", "q", "r"]:
        let opinion = call critic("{arg} {side}")
        said += [opinion]
    gen last(max_tokens=8, temperature=1.5)
    return [said[0], last]
"""


def run(toy, pages, rows):
    executable = toy.compile(CRITICS, num_pages=pages, page_size=4, max_batch=8, max_tokens=64)
    given = [{"arg": f"{number}"} for number in range(rows)]
    found = executable.run_rows(given)
    oracle = toy.oracle(CRITICS)
    assert found.values == [oracle(number, **row).value for number, row in enumerate(given)]
    toy.assert_clean(executable)
    return found.stats, executable._host.forecast.claim(executable.check_row(0, given[0]), rows)


@pytest.mark.parametrize(("rows", "pages"), [(24, 140), (24, 200), (9, 260), (10, 300)])
def test_more_memory_takes_no_more_steps(toy, rows, pages):
    """Eight rows had proven room for one part each, or two, and took 14 and 7 steps more; or for
    all their parts, so that the last row came when the others had ended: 10 steps more."""
    fewer, _ = run(toy, 100 if rows == 24 else 120, rows)
    stats, claim = run(toy, pages, rows)
    assert stats.steps <= fewer.steps and not stats.preemptions and not claim.proven


@pytest.mark.parametrize(("pages", "ahead"), [(60, 1), (100, 2)])
def test_few_rows_keep_their_proof(toy, pages, ahead):
    stats, claim = run(toy, pages, 4)
    assert claim.proven and claim.ahead == ahead and not stats.preemptions


@pytest.mark.parametrize("pages", [150, 400, 1000])
def test_as_many_rows_as_are_said_to_be_held_are_proven_and_compute_nothing_again(toy, pages):
    batch = 8
    _, alone = run(toy, pages, 1)
    rows = held_rows(pages // alone.pages, batch)
    assert (rows is None) == (pages // alone.pages >= PARTS * batch)
    stats, claim = run(toy, pages, rows or 5 * batch)
    assert claim.proven and not stats.preemptions
    if rows:
        _, more = run(toy, pages, rows + 1)
        assert (more.proven, more.ahead) != (True, alone.ahead)
