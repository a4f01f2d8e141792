"""Sparse attention with everything else at once: shared prefixes, forks, constraints, experts, and
keys and values of 16 bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import weft
from weft.options import Options
from weft.passes.tile.regimes import lower_model

pytestmark = pytest.mark.usefixtures("one_thread")
PROGRAM = """record Verdict:
    word: str(max_tokens=6)
    score: int(1..10)

program judge(story: str, sides: list[str] = ["style", "plot", "style and plot"]) -> list[Verdict]:
    user "{story}"
    fork side in sides as verdicts:
        user "Judge its {side}."
        with attention sparse(k=40, sinks=2, recent=8, min_context=0, labels=i4, tail=mean):
            assistant gen verdict: Verdict
            user "Say why."
            assistant gen why(max_tokens=8)
        yield verdict
    return verdicts
"""
STORY = "Once upon a time there was a little fox who lived in a big forest by the river. " * 4
SPARSE = "with attention sparse(k=40"


@pytest.fixture
def few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode steps of four rows, which hold all branches, are the only ones: to compile those of
    other rows, too, takes most of a test's time."""
    monkeypatch.setattr(
        "weft.passes.tile.regimes.lower_model", partial(lower_model, decode_rows=(4,))
    )


def judged(text: str = PROGRAM, **changes: Any) -> Any:
    options = Options.from_env().changed(attention_always=True, validate=True, **changes)
    result = weft.compile(text, "tiny-moe", options=options).run(story=STORY)
    return result.value, result.values


@pytest.mark.usefixtures("few_kernels")
def test_all_of_it_together_gives_what_the_meaning_gives() -> None:
    """The compiled kernels against the graph's meaning; a wider selection reads other keys."""
    value, values = judged()
    assert (value, values) == judged(executor="reference")
    assert len(value) == 3 and all(1 <= verdict["score"] <= 10 for verdict in value)
    assert values != judged(PROGRAM.replace(SPARSE, "with attention sparse(k=4000"))[1]


@pytest.mark.slow
def test_16_bit_keys_and_batches_change_nothing() -> None:
    """Of labels made of bf16 keys: the same text with all branches in a step, or one by one."""
    together = judged(kv="bf16")
    assert together == judged(kv="bf16", max_batch=1)
    assert len(together[0]) == 3
