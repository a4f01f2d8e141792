"""Which cases and how many examples of a test `make test` runs; `make test-slow` runs all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def each_time(cases: Mapping[str, Any] | Iterable[Any], *kept: Any) -> list[Any]:
    """Return cases as parameters, of which `kept` run each time: by name, or by themselves (a tuple
    fills several parameters).

    Kept are those that take a way of their own through what is tested; others are more of the same
    in another size, format or model. Raises KeyError where a kept one is no case.
    """
    named = cases if isinstance(cases, Mapping) else {case: case for case in cases}
    if unknown := {*kept} - {*named}:
        raise KeyError(*unknown)
    return [
        pytest.param(
            *(case if isinstance(name, tuple) else (case,)),
            id="-".join(map(str, name if isinstance(name, tuple) else (name,))),
            marks=() if name in kept else pytest.mark.slow,
        )
        for name, case in named.items()
    ]


def examples(count: int) -> int:
    """Return how many of `count` random examples a run has: all with `make test-slow`."""
    from hypothesis import settings  # tests of a GPU run without

    return max(1, count * settings.default.max_examples // 100)
