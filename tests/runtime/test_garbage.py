"""While rows run Python looks seldom for cycles, and afterwards as often as before."""

import gc

import pytest
from weft.runtime.garbage import OBJECTS, YOUNG, seldom_collected


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


def test_a_session_restores_it_when_it_is_closed_in_its_midst(toy):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen said(max_tokens=30)\n    return said\n'
    executable = toy.compile(text)
    steps = executable.session().steps(iter([(0, executable.check_row(0, {"n": 5}))]))
    next(steps)
    assert gc.get_threshold()[0] == OBJECTS
    steps.close()
    assert gc.get_threshold() == (700, 10, 10)
