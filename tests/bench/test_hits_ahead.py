"""Prefix hits on a device that runs ahead, as a GPU does: the static count is the measured one."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
from weft.bench.contest.cases import CASES
from weft.bench.contest.contest import Contest, Way
from weft.bench.host_overlap import TimedBench
from weft.bench.programs_gpu import rows_of
from weft.tests.each_time import each_time

OFTEN = ("adapters", "best_draft", "generative_agents", "llm_judge", "multi_turn_long", "rag",
         "react_replay", "tree_of_thoughts")  # fmt: skip
"""Branches, joins, loops, tools, long texts that rows share, turns, and models in turn."""


@pytest.fixture(scope="module")
def bench() -> Iterator[TimedBench]:
    """Programs of an 8 B shape on a device whose steps take no time."""
    found = TimedBench(speed=0.0)
    with patch("weft.runtime.schedule.scoring.Found", found.device.found):
        yield found


@pytest.mark.parametrize("name", each_time(CASES.keys(), *OFTEN))
def test_all_that_prompts_share_is_hit(bench, name):
    contest = Contest(bench, CASES[name], rows_of(CASES[name], times=1))
    run = contest.weft(Way(kv_tokens=0, noted=True))
    stats = [answer.stats for answer in run.answers]
    assert run.log is not None and run.log.hits > 0
    assert run.log.hits == run.log.ideal
    assert sum(s.hits_predicted for s in stats) == sum(s.hits_measured for s in stats)
    run.engine.check()
