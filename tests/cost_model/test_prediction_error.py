"""Errors of predictions: what is counted, and that a right prediction has none."""

from dataclasses import replace

import pytest
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm.prediction import predict
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.cost_model.prediction_error import NothingMeasured, Setting, prediction_errors
from weft.frontend.models.presets import preset

SHAPE = MoeShape.of(preset("mixtral-8x7b-8l"))
WORKLOAD = Workload(77, 32)
POLICY = Policy(
    batch=320, micro_batch=32, attention="cpu", layers=(Placement("rsssssss"),) * 8, experts=8,
    pages_per_expert=1, ring=10,
)  # fmt: skip
H200 = load("h200")
LINK = H200.link("cpu", "gpu").bandwidth.median
RIGHT = predict(POLICY, SHAPE, WORKLOAD, H200)


def setting(factor: float, **changes) -> Setting:
    total = RIGHT.prefill.expected + 31 * RIGHT.step.expected
    made = Setting("s", SHAPE, POLICY, WORKLOAD, factor * RIGHT.step.expected, factor * total)
    return replace(made, **changes)


def test_a_right_prediction_has_no_error() -> None:
    errors = prediction_errors([setting(1.0)], H200)
    assert [error.what for error in errors.each] == ["step", "layer", "total"]
    assert errors.summary()["hrm_error_max"] == pytest.approx(0.0, abs=1e-9)
    assert errors.each[0].paper_relative > 0.01


def test_median_and_worst() -> None:
    settings = [setting(factor, total_s=0.0) for factor in (1.0, 1.25, 2.0)]
    errors = prediction_errors(settings, H200)
    summary = errors.summary()
    assert summary["hrm_error_median"] == pytest.approx(0.2)
    assert summary["hrm_error_max"] == pytest.approx(0.5)
    assert "error: median 20.0%, worst 50.0%" in errors.text()


def test_the_published_form_is_its_equation() -> None:
    """Seven of eight experts of a layer over the link, and nothing else counts."""
    (error, *_) = prediction_errors([setting(1.0)], H200).each
    assert error.paper == pytest.approx(8 * SHAPE.layer_bytes * 7 / 8 / LINK)


def test_nothing_measured() -> None:
    with pytest.raises(NothingMeasured):
        prediction_errors([setting(1.0, step_s=0.0, total_s=0.0)], H200)
