"""While rows run Python looks seldom for cycles, and afterwards as often as before."""

import gc

import pytest
from weft.runtime.schedule.flight import Flight, Landed
from weft.runtime.schedule.garbage import (
    OBJECTS,
    TOO_MANY,
    WAITING,
    YOUNG,
    collect_meanwhile,
    seldom_collected,
)


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_only_the_last_that_leaves_restores_what_was():
    with seldom_collected():
        with seldom_collected():
            assert gc.get_threshold() == (OBJECTS, YOUNG, 10)
        assert gc.get_threshold() == (OBJECTS, YOUNG, 10)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (10**6, 10**3, 10)])
def test_who_looks_more_seldom_or_never_goes_on_with_that(own):
    gc.set_threshold(*own)
    with seldom_collected():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def young(most=1):
    """Return how many young objects there are after many were made."""
    kept = [[] for _ in range(most * WAITING + 100)]
    collect_meanwhile()
    assert kept
    return gc.get_count()[0]


def test_the_young_are_looked_at_in_a_wait_while_rows_run():
    gc.set_threshold(0, 10, 10)
    with seldom_collected():
        assert young() > WAITING  # it is off
    gc.set_threshold(10**6, 10, 10)
    gc.collect()
    assert young() > WAITING  # no rows run
    with seldom_collected():
        assert young() < WAITING
        few = [[] for _ in range(WAITING // 2)]
        collect_meanwhile()
        assert gc.get_count()[0] > WAITING // 4 and few  # too few
        assert young(TOO_MANY // WAITING + 1) > TOO_MANY


def test_python_looks_at_those_that_survive_waits():
    gc.set_threshold(10**6, 2, 10)
    gc.collect()
    with seldom_collected():
        for _ in range(YOUNG + 1):
            assert young() < WAITING
        assert young() > WAITING
        gc.collect(1)
        assert young() < WAITING


def test_a_wait_for_a_device_is_used(monkeypatch):
    looked, drawn = [], ()
    monkeypatch.setattr("weft.runtime.schedule.flight.collect_meanwhile", lambda: looked.append(1))

    class Late(Landed):
        def ready(self):
            return False

    for draw, ahead, waited in ((Landed(drawn), True, 0), (Late(drawn), False, 0),
                                (Late(drawn), True, 1)):  # fmt: skip
        looked.clear()
        assert Flight([], (), draw, 0).wait(ahead) == (drawn, bool(waited))
        assert len(looked) == waited


def test_a_session_restores_it_when_it_is_closed_in_its_midst(toy):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen said(max_tokens=30)\n    return said\n'
    executable = toy.compile(text)
    steps = executable.session().steps(iter([(0, executable.check_row(0, {"n": 5}))]))
    next(steps)
    assert gc.get_threshold()[0] == OBJECTS
    steps.close()
    assert gc.get_threshold() == (700, 10, 10)
