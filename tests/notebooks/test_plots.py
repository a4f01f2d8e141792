"""Pictures hold what they are of: blocks of the prefix tree, stretches of KV, recorded figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import weft
from weft.compiler import Compilation
from weft.cost_model.binding import decode
from weft.cost_model.hardware_file import load
from weft.cost_model.report import compare
from weft.cost_model.roofline import predict, step
from weft.frontend.models.registry import load_model
from weft.plots.gpu_kernels import attention_chart
from weft.plots.lifetimes import lifetime_chart, memory_chart, step_chart, stretches
from weft.plots.passes import pass_chart
from weft.plots.prefixes import blocks, prefix_map
from weft.plots.recorded import NoRecord, NoResults, recorded
from weft.plots.roofline import MeasuredRoofline, by_name, comparison_chart
from weft.plots.style import bars, picture
from weft.plots.text import cut, show_diff
from weft.runtime.results import Stats

ROOT = Path(weft.__file__).resolve().parent
ROWS = [
    {"essay": "A bridge helps us.", "sides": ["clarity", "evidence"]},
    {"essay": "Fish like lakes.", "sides": ["clarity"]},
]


@pytest.fixture(scope="module")
def compilation() -> Compilation:
    return Compilation(ROOT / "examples" / "essay_judge.weft", "tiny-dense")


def is_png(figure) -> bool:
    return figure._repr_png_().startswith(b"\x89PNG")


def test_the_prefix_map_has_every_token_once(compilation) -> None:
    tree = compilation.prefixes.tree(ROWS)
    found = blocks(tree)
    assert sum(block.node.tokens for block in found) == sum(n.tokens for n in tree.root.walk())
    leaves = [block for block in found if not block.node.children]
    assert sum(block.height for block in leaves) == found[0].height
    for block in found:
        inside = [child for child in found if child.node in block.node.children.values()]
        assert all(child.start == block.start + block.width for child in inside)
        assert not inside or sum(child.height for child in inside) == block.height
    assert is_png(prefix_map(tree))


def test_stretches_are_those_of_the_plan(compilation) -> None:
    found = stretches(compilation.plan, "judge")
    assert [each.label for each in found if each.last is None] != []
    for each in found:
        assert each.last is None or (each.first is not None and each.first <= each.last)
    assert next(each for each in found if each.label == "review").line == 14
    assert is_png(lifetime_chart(compilation.plan, "judge"))


def test_steps_are_drawn() -> None:
    executable = weft.compile(ROOT / "examples" / "essay_judge.weft", trace=True)
    executable.run(**ROWS[0])
    trace = executable.engine.trace
    assert trace is not None and trace.steps
    figure = step_chart(trace.steps, capacity=8)
    axes: Any = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == executable.engine.computed_tokens
    assert is_png(figure) and is_png(step_chart([]))


def test_a_roofline_has_a_point_for_each_kind_and_a_ring_where_measured() -> None:
    _, graph = load_model("random:llama-1b")
    hardware = load("cpu-generic")
    costs = tuple(predict(graph, decode(4, 256), hardware))
    kinds = by_name(costs)
    assert {"graph.matmul", "graph.partial"} <= set(kinds)
    assert sum(cost.work.flops for cost in kinds.values()) == pytest.approx(step(costs).work.flops)
    measured = {name: 2 * cost.seconds.expected for name, cost in kinds.items()}
    shown = MeasuredRoofline("a step", hardware.level(), costs, measured | {"graph.other": 1.0})
    points = shown.plot().points
    assert len(points) == 2 * len(kinds)
    for point, ring in zip(points[: len(kinds)], points[len(kinds) :], strict=True):
        assert not point.hollow and ring.hollow and point.name == ring.name
        assert ring.rate == pytest.approx(point.rate / 2)
    assert "<svg" in shown._repr_html_()
    compared = compare({name: cost.seconds for name, cost in kinds.items()}, measured)
    assert is_png(comparison_chart(compared))


def test_recorded_attention_has_a_bar_a_case() -> None:
    record = recorded("gpu_kernels", ROOT / "bench" / "results")
    figure = attention_chart(record)
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "64x4096" in names and all(f"decode_{name}_page16" in record for name in names)
    axes: Any = figure.axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert record["decode_64x4096_page16"]["of_copy"] in heights
    assert record.provenance("decode") in figure.axes[0].get_title(loc="left")


def test_records_say_where_they_are_from() -> None:
    figures = recorded("gpu_kernels", ROOT / "bench" / "results")
    entry = json.loads((ROOT / "bench" / "results" / "gpu_kernels.json").read_text())
    assert figures["copy_tb_s"] == entry["figures"]["copy_tb_s"]
    said, section = figures.provenance("decode"), entry["sections"]["decode"]
    assert section["commit"] in said and section["machine"]["gpu"] in said
    with pytest.raises(NoRecord, match="nonsense"):
        figures["nonsense"]
    with pytest.raises(NoRecord, match="no section"):
        figures.provenance("nonsense")


def test_missing_results_are_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(NoResults, match="nothing.json"):
        recorded("nothing", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoResults, match="bench/results"):
        recorded("cpu")


def test_the_same_picture_gives_the_same_svg() -> None:
    first, second = (bars(["x", "y"], [1.0, 2.0], "units").svg() for _ in range(2))
    assert first == second and ">units<" in first


def test_a_picture_of_several_axes() -> None:
    _, axes = picture(columns=3)
    assert len(axes) == 3


def test_texts_are_cut_and_counted() -> None:
    assert cut("abcdefgh\nx", width=6) == "abc ..\nx"
    assert cut("a\nb\nc", lines=1) == "a\n.. 2 more lines"


def test_a_diff_is_escaped_and_coloured() -> None:
    html = show_diff("@@ 1 @@\n-<a>\n+b\n c")._repr_html_()
    assert "&lt;a&gt;" in html and html.count("<span") == 3


def test_passes_are_drawn(compilation) -> None:
    _ = compilation.plan
    assert is_png(pass_chart(compilation.records))


def test_hits_over_memory_are_drawn() -> None:
    stats = Stats(hits_predicted=10, hits_measured=8, preemptions=1)
    assert is_png(memory_chart({2.0: stats, 1.5: stats}))


def test_the_hierarchical_roofline_shows_both_choices_and_where_they_turn() -> None:
    from weft.cost_model.hrm.curves import decode_attention, feed_forward, turning_points
    from weft.cost_model.hrm.shape import MoeShape
    from weft.frontend.models.presets import preset
    from weft.plots.hierarchy import hierarchical_roofline

    shape, machine = MoeShape.of(preset("mixtral-8x7b")), load("h200")
    layers = [feed_forward(shape, 1920, 32), decode_attention(shape)]
    drawn = hierarchical_roofline(machine, layers)
    axes: Any = drawn.axes[0]
    names = [line.get_label() for line in axes.get_lines()]
    assert {"on cpu, in place", "link cpu to gpu", "gpu memory", "on gpu, moved"} <= set(names)
    turns = turning_points(machine, layers[0])
    verticals = [
        line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1
    ]
    for place in (turns.stay_below, turns.link_bound_below, turns.balance):
        assert any(abs(place - each) < 1e-6 * place for each in verticals)
    assert turns.link_bound_below == turns.balance  # its own memory bounds it, not arithmetic
