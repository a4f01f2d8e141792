"""Fixtures of all tests: `golden` compares a text with a file, or writes it on request.

Tests stand in rooms that mirror the package. What several share stands beside them and is imported
by its whole name, `from weft.tests.runtime.schedule.toy_engine import ...`, in processes too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the tests of a GPU run without
    pass
else:
    # How long an example takes depends on what else the machine does: no fault of the code. What
    # decides whether a change lands has the same examples each time, a quarter of as many as
    # `make test-slow` has, where they are new ones.
    fair: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("new-examples", settings(), **fair, max_examples=100)
    settings.register_profile("weft", settings(), **fair, max_examples=25, derandomize=True)
    settings.load_profile("weft")

GOLDEN = Path(__file__).parent / "golden"
FREEZING = {"freeze": gc.freeze, "unfreeze": gc.unfreeze}
OBJECTS = 20_000
"""How many objects more there are when Python looks through the young ones: at its own 700 it takes
5 % of the tests' time, and what is found is what tests leave, not what they hold."""


class RootIsAFolder:
    """Keeps pytest from importing the root's `__init__.py` under the name of the checkout's folder,
    which need not be one of a module (`weft-main`)."""

    @staticmethod
    def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == GOLDEN.parents[1] else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RootIsAFolder())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu`, read only the modules that have such tests: a machine with a GPU may lack
    what others import."""
    if config.getoption("markexpr") != "gpu" or not collection_path.name.startswith("test_"):
        return None
    return None if "mark.gpu" in collection_path.read_text(encoding="utf-8") else True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests are no garbage: Python looks through their half a million objects neither
    while they are made nor later, when each model that is loaded has it look for others."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(OBJECTS, 10, 10)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let every second worker read the files from the last to the first: in a new checkout each has
    to be compiled, with what it imports, and so none is by two at once."""
    report = yield
    worker = getattr(collector.config, "workerinput", {}).get("workerid", "gw0")
    if isinstance(collector, pytest.Session | pytest.Dir) and int(worker[2:]) % 2:
        report.result.reverse()
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All workers have the files in one order, that of their paths."""
    items.sort(key=lambda item: item.path)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries complain of what is never let go


@pytest.fixture(scope="session", autouse=True)
def usual_short_steps() -> Iterator[None]:
    """Let no test depend on which kernels run short steps fastest on this machine: sums in another
    order round other bf16 keys. Both ways are held to the reference in test_compiled_executor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weft.compiler.choices.short_steps", lambda executor, options: executor.short)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_of_one_process() -> Iterator[None]:
    """Make the command line once, not for each of the hundreds of commands that tests give; and let
    none thaw what `pytest_collection` froze: each model that is loaded would look through it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FREEZING:
            patch.setattr(gc, name, lambda: None)
        with suppress(ImportError):  # the tests of a GPU run without
            from typer.main import get_command

            patch.setattr("typer.testing._get_command", cache(get_command), raising=False)
        yield


@pytest.fixture
def freezing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands freeze what they load, and thaw it, as they do outside of tests."""
    for name, as_it_is in FREEZING.items():
        monkeypatch.setattr(gc, name, as_it_is)


@pytest.fixture(scope="module")
def little_to_look_through() -> None:
    """Keep what earlier tests hold from Python's looks for garbage, of which a module has many."""
    gc.collect()
    FREEZING["freeze"]()


@pytest.fixture(scope="session", autouse=True)
def models_lowered_once() -> Iterator[None]:
    """Lower a model once for the same options: hundreds of tests compile the shipped ones. Tests
    of passes call them, and what lowers for them, by name."""
    from weft.passes.tile import regimes

    def once(lower: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        known: dict[Any, list[Any]] = {}

        def lowered(*model: Any, **options: Any) -> list[Any]:
            key = model, tuple(sorted(options.items()))
            if key not in known:
                known[key] = lower(*model, **options)
            return list(known[key])

        return lowered

    with pytest.MonkeyPatch.context() as patch:
        for name in ("lower_model", "lower_for_gpu"):
            patch.setattr(regimes, name, once(getattr(regimes, name)))
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return `golden(name, text)`: the text equals `tests/golden/<name>`."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"tests/golden/{name} is missing: run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"differs from tests/golden/{name}"

    return check
