"""How the two pools of threads wait: what weft says to OpenMP, and what it leaves to the user."""

import os
import subprocess
import sys
import warnings

import pytest
from weft.codegen.threads import LIBRARY_WAIT, SPIN_COUNT, without_library_wait

SHOWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TVM_THREAD_POOL_SPIN_COUNT")

PROGRAM = """
import os
{first}
import weft
from weft.codegen.threads import configure_threads, library_yields
configure_threads(2)
print([os.environ.get(name) for name in {shown}], library_yields())
"""


def said(first: str = "", **given: str) -> str:
    """Return what a process has in its environment after weft is imported."""
    outside = {name: value for name, value in os.environ.items() if name not in SHOWN}
    program = PROGRAM.format(first=first, shown=SHOWN)
    done = subprocess.run(
        [sys.executable, "-c", program], env=outside | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_library_sleeps_where_nobody_says_otherwise() -> None:
    assert said() == f"{[*LIBRARY_WAIT.values(), str(SPIN_COUNT)]} True"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"OMP_WAIT_POLICY": "passive"}, "['passive', None, '300'] True"),
        ({"GOMP_SPINCOUNT": "77"}, "[None, '77', '300'] True"),
        ({"GOMP_SPINCOUNT": "INFINITE"}, "[None, 'INFINITE', '300'] False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "['ACTIVE', None, '300'] False"),
        ({"TVM_THREAD_POOL_SPIN_COUNT": "5"}, "['PASSIVE', '1000', '5'] True"),
    ],
)
def test_what_the_user_says_stands(given: dict[str, str], shown: str) -> None:
    assert said(**given) == shown


def test_nothing_is_said_to_a_library_that_is_loaded() -> None:
    loaded = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    assert said(loaded) == "[None, None, '300'] False"


def test_another_engine_gets_the_environment_that_weft_found() -> None:
    outside = {"PATH": "/bin", "GOMP_SPINCOUNT": "5"}
    assert without_library_wait(outside) == outside
    assert without_library_wait({"PATH": "/bin", **LIBRARY_WAIT}) == {"PATH": "/bin"}


def test_more_threads_than_cores_are_told(monkeypatch) -> None:
    import torch
    from weft.codegen import threads

    asked: list[int] = []
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    monkeypatch.setattr(threads, "configure_threads", lambda count: count)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with pytest.warns(UserWarning, match="8 threads share 4 cores.*\nhint: --threads 4"):
        threads.share_cores(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads.share_cores(4)
    assert asked == [8, 4]
