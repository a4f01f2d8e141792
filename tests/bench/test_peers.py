"""Outcomes of races: the best setting of an engine counts, and failures are named."""

from pathlib import Path

from weft.bench.peers import Outcome, llama_specs, race, table, weft_specs


def test_the_best_setting_counts() -> None:
    outcome = Outcome({"weft f32 1t": [2.0, 2.0], "weft f32 2t": [4.0, 4.0], "peer a": [2.0, 2.0]})
    assert outcome.best("weft f32") == "weft f32 2t"
    assert outcome.best("weft f3") is None
    found = outcome.ratio("weft", "peer")
    assert found is not None and found.median == 2.0
    assert outcome.ratio("weft", "absent") is None


def test_settings_are_named() -> None:
    assert list(weft_specs(Path("m"), 1, ["f32"], (1, 2))) == ["weft f32 1t", "weft f32 2t"]
    assert list(llama_specs(Path("m"), 1, "q8_0")) == ["llama.cpp q8_0 2t"]


def test_an_engine_that_fails_is_named(tmp_path) -> None:
    outcome = race(weft_specs(tmp_path / "nowhere", 1, ["f32"]), 1, 1)
    assert outcome.rates == {}
    assert "weft f32 2t" in outcome.failed
    assert "did not run" in table("race", outcome)
