"""The schedule of offloaded keys is free of hazards, and each wait of it is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from weft.ir.pipeline import Pipeline
from weft.passes.graph.hazards import Hazard, Missing, prove_hazards
from weft.passes.graph.kv_offload import kv_offload_pipeline


def without(pipeline: Pipeline, name: str) -> Pipeline:
    tasks = tuple(replace(t, waits=()) if t.name == name else t for t in pipeline.tasks)
    return replace(pipeline, tasks=tasks)


def test_proven_for_any_durations() -> None:
    proof = prove_hazards(kv_offload_pipeline(32))
    assert proof.tasks == 32 * 7 and proof.obligations > 300


@pytest.mark.parametrize(
    ("task", "slot"),
    [("attend3", "rows1"), ("late3", "rows0"), ("pre3", "own"),
     ("own_down2", "own")],
)  # fmt: skip
def test_a_wait_that_is_left_out_is_a_hazard(task: str, slot: str) -> None:
    with pytest.raises(Hazard, match=slot):
        prove_hazards(without(kv_offload_pipeline(6), task))


def test_rows_of_another_layer_are_missed() -> None:
    pipeline = kv_offload_pipeline(4)
    tasks = tuple(task for task in pipeline.tasks if task.name != "late2")
    with pytest.raises(Missing, match="all_2"):
        prove_hazards(replace(pipeline, tasks=tasks))
