"""The sums of bench.gpu_idle, whose events need a GPU."""

from __future__ import annotations

import pytest
from weft.bench.gpu_idle import Idle


def test_what_steps_leave_of_a_run_is_before_between_and_behind_them():
    found = Idle.of([(12.0, 20.0), (20.5, 30.0), (33.0, 34.0)], end=36.0, longest=1)
    assert (found.before, found.between, found.behind) == (12.0, pytest.approx(3.5), 2.0)
    assert found.busy + found.before + found.between + found.behind == pytest.approx(36.0)
    assert found.longest == (3.0,)
    assert "(3.0)" in str(found)


def test_a_run_of_one_step_has_none_between():
    assert Idle.of([(1.0, 2.0)], end=2.0).between == 0
