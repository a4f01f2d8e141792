"""Timing helpers and checkpoint tools of the benchmarks."""

import json
import time

import pytest
from weft.bench import cpu, measure
from weft.bench.engines import checkpoint

TINY = checkpoint.ONE_B | {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def test_rounds_are_interleaved_and_turn() -> None:
    calls: list[str] = []
    runs = {name: (lambda n=name: calls.append(n) or 1.0) for name in "abc"}
    results = measure.interleave(runs, 3)
    assert calls == list("abcbcacab")
    assert results == {name: [1.0] * 3 for name in "abc"}


def test_a_clock_stands_while_others_have_the_core(monkeypatch) -> None:
    moments = iter([(5.0, 1.0, 2.0), (15.0, 4.0, 2.0), (16.0, 4.0, 3.0), (17.0, 4.5, 9.0)])
    monkeypatch.setattr(measure, "_moment", lambda: next(moments))
    clock = measure.OwnClock()
    assert clock.seconds() == 7.0
    assert clock.seconds() == 9.0  # one of three seconds went to threads of its own
    assert clock.seconds() == 12.0  # and these took more than that


def test_a_clock_counts_sleep() -> None:
    start, clock = time.perf_counter(), measure.OwnClock()
    time.sleep(0.02)
    slept = clock.seconds()
    assert 0.019 <= slept <= time.perf_counter() - start


def test_ratio_of_medians_survives_a_disturbed_round() -> None:
    found = measure.ratio([2.0, 2.0, 2.0, 0.1, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert found.median == 2.0 and found.low <= 2.0 <= found.high


def test_summary_of_one_value() -> None:
    assert measure.Summary.of([3.0]) == measure.Summary(3.0, 3.0, 3.0, 1)


def test_the_1b_shape_has_1_1_billion_parameters() -> None:
    count = sum(
        checkpoint._product(shape) for shape in checkpoint.shapes(checkpoint.ONE_B).values()
    )
    assert count == pytest.approx(1.10e9, rel=0.01)


def test_results_keep_the_sections_that_are_not_run_again(tmp_path) -> None:
    path = tmp_path / "cpu.json"
    cpu.record({"a": 1.0, "b": 2.0}, ["kernels"], path)
    cpu.record({"b": 3.0}, ["host"], path)
    known = json.loads(path.read_text())
    assert known["figures"] == {"a": 1.0, "b": 3.0}
    assert set(known["sections"]) == {"kernels", "host"}
    assert {"machine", "versions", "commit", "date"} <= set(known["sections"]["host"])


def test_figures_are_read_from_json_and_from_lines() -> None:
    assert cpu.figures_of('{\n "a": 1.5\n}\n') == {"a": 1.5}
    assert cpu.figures_of("a: 1.5\nb_c: 2\n") == {"a": 1.5, "b_c": 2.0}


@pytest.mark.slow  # tests/zoo has the shipped models
def test_checkpoint_loads_in_transformers(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = checkpoint.make(tmp_path / "model", TINY)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == checkpoint.shapes(TINY)


def test_a_geometric_mean_is_of_what_is_known() -> None:
    assert measure.geometric_mean([2.0, None, 8.0]) == pytest.approx(4.0)
    assert measure.geometric_mean([None]) is measure.geometric_mean(()) is None
