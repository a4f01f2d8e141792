"""Pictures of policies, pipelines and channels hold what they are of; sliders have a fallback."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from weft.bench.moe_record import RESULTS
from weft.compiler.attention import calibration_of
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm.grid import Grid
from weft.cost_model.hrm.host_curve import host_curve
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.model import Site
from weft.cost_model.hrm.prediction import Lift, predict
from weft.cost_model.hrm.search import policy_of, search
from weft.cost_model.hrm.shape import MoeShape, Workload
from weft.cost_model.hrm.timed import run
from weft.cost_model.pipelines import pipeline_shape
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.models.presets import PRESETS
from weft.ir.offload.schedules import build_pipeline
from weft.ir.sparse.policy import parse_policy
from weft.plots.channels import bytes_chart, channel_chart, spread_by_rank
from weft.plots.controls import sliders
from weft.plots.gantt import Gantt
from weft.plots.host_memory import host_memory_chart, measured_rates
from weft.plots.hrm import lifts_chart, pages_chart, roofs_chart, throughput_chart
from weft.plots.recorded import NoRecord

GIB = 2**30


def is_png(figure) -> bool:
    return figure._repr_png_().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def found():
    hardware = load("h200")
    shape, workload = MoeShape.of(PRESETS["mixtral-8x7b"], "bf16"), Workload(64, 8)
    site = Site(HostedGpu.of(hardware), 24 * GIB, 110 * GIB, 0.0)
    grid = Grid(most=64, pages_per_expert=1, kv_gpu=(0.0,))
    policy = policy_of(search(shape, workload, site, grid), shape)
    return policy, shape, workload, site, predict(policy, shape, workload, hardware)


def test_a_bar_a_roof_and_a_line_at_the_step(found) -> None:
    *_, prediction = found
    figure = roofs_chart(prediction)
    axes: Any = figure.axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted((1e3 * seconds for seconds in prediction.roofs.values()), reverse=True)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(1e3 * prediction.step.expected)
    assert is_png(figure)


def test_a_gantt_chart_has_every_task_once(found) -> None:
    policy, shape, workload, site, _ = found
    pipeline = build_pipeline(policy.schedule, pipeline_shape(policy, layers=2))
    timeline = run(pipeline, policy, shape, workload, site.machine)
    chart = Gantt("two layers", pipeline, timeline)
    drawn = [interval.name for track in chart.tracks() for interval in track.intervals]
    assert sorted(drawn) == sorted(task.name for task in pipeline.tasks)
    for track in chart.tracks():
        ends = [interval.end for interval in track.intervals]
        starts = [interval.start for interval in track.intervals]
        assert all(end <= start + 1e-12 for end, start in zip(ends, starts[1:], strict=False))
    assert "<svg" in chart._repr_html_()


def test_lifts_pages_and_rates_are_drawn() -> None:
    assert is_png(lifts_chart([Lift("GPU memory", 1.1), Lift("link", 1.2)]))
    assert is_png(throughput_chart({16: 1.0, 24: 2.0}, "GPU memory"))
    figure = pages_chart({"16 GiB": {"resident": 3, "streamed": 5}, "24 GiB": {"resident": 8}})
    axes: Any = figure.axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == 16


def test_throughput_by_host_memory_has_its_bound_and_what_was_measured(found, tmp_path) -> None:
    _, shape, workload, site, _ = found
    grid = Grid(micro_batches=(16, 64), most=64, pages_per_expert=1, attention=("cpu",))
    curve = host_curve(shape, workload, site, grid, load("h200"), shares=(0.1, 0.7, 0.995))
    amounts = [point.host_memory for point in curve.points]
    assert len(amounts) == 2 and amounts == sorted(amounts)  # a tenth holds no pages
    for point in curve.points:
        assert 0 < point.rate.low <= point.rate.expected <= point.bound_rate
    assert curve.points[0].rate.expected <= curve.whole.rate.expected
    assert amounts[0] <= curve.least <= amounts[-1] and curve.saving >= 1
    record = tmp_path / "record.json"
    rows = [
        {"host_bytes": size * GIB, "tokens_per_s": rate, "pages": pages}
        for size, rate, pages in ((90, 5.0, "bf16"), (70, 6.0, "bf12"), (80, 7.0, "bf12"))
    ]
    figures = {"rate_by_host_memory": rows, "rate_by_host_memory_int8": [
        {"host_bytes": 40 * GIB, "tokens_per_s": 8.0, "pages": "int8"}]}  # fmt: skip
    about = {"host_memory": {"machine": {"gpu": "G"}, "commit": "c1"}}
    record.write_text(json.dumps({"figures": figures, "sections": about}))
    figure = host_memory_chart(curve, "rates", measured_rates(record))
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines["measured on G, c1: pages of bf16"] == [[90.0, 5.0]]
    assert lines["measured on G, c1: pages of bf12"] == [[70.0, 6.0], [80.0, 7.0]]
    assert lines["measured on G, c1: pages of int8 (lossy)"] == [[40.0, 8.0]]
    assert len(measured_rates(RESULTS)) == 3
    assert [y for _, y in lines["best policy, predicted"]] == [
        point.rate.expected for point in curve.points
    ]
    assert is_png(figure)
    record.write_text("{}")
    with pytest.raises(NoRecord, match="has no figure 'rate_by_host_memory'"):
        measured_rates(record)


def test_channels_are_ranked_and_add_up() -> None:
    checkpoint = open_checkpoint("tiny-dense")
    policy = parse_policy("sparse(ratio=1/16)")
    assert policy is not None
    calibration = calibration_of(checkpoint, policy)
    table = spread_by_rank(calibration)
    config = checkpoint.config
    assert table.shape == (config.layers * config.kv_heads, config.head_dim)
    assert np.allclose(table.sum(axis=1), 1)
    assert is_png(channel_chart(calibration, 16))
    assert is_png(bytes_chart({"a": [1.0, 2.0]}, [512, 1024]))


def test_sliders_begin_at_the_first_choice() -> None:
    shown = sliders(lambda batch, memory: None, batch=(256, 64), memory=(24, 40))
    assert [control.value for control in shown.children[:2]] == [256, 24]
    assert all(not control.continuous_update for control in shown.children[:2])


def test_without_widgets_each_setting_is_turned_once(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    drawn = sliders(lambda batch, memory: (batch, memory), batch=(256, 64), memory=(24, 40))
    assert drawn == [(256, 24), (64, 24), (256, 40)]
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    drawn._ipython_display_()  # a list is shown as text, its pictures are not
    assert seen == drawn
    assert capsys.readouterr().out == "batch 256, memory 24\nbatch 64\nmemory 40\n"
