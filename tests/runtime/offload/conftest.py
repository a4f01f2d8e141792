"""Fixtures of partitioned models: the executors of a small one, and what it says in one piece."""

from __future__ import annotations

from typing import Any

import pytest
from weft.compiler.loading import reference_executor
from weft.options import Options
from weft.tests.runtime.offload.offload_cases import LIMITS, Cases, greedy


@pytest.fixture(scope="module")
def cases() -> Any:
    """Executors of a model whose experts lie across a link."""
    return Cases(Options.from_env().cache)


@pytest.fixture(scope="module")
def whole(cases: Any) -> Any:
    """The tokens of that model in one piece."""
    checkpoint = cases.checkpoint
    return greedy(reference_executor(checkpoint, checkpoint.graph, Options(**LIMITS)))
