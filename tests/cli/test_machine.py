"""`weft calibrate`: what it refuses before it measures, what it prints, and who reads its file."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.codegen.threads import available_cores
from weft.cost_model.hardware import Rate
from weft.cost_model.hardware_file import load
from weft.options import BadOption


def calibrate(*arguments):
    result = CliRunner().invoke(app, ["calibrate", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def measured(monkeypatch):
    """Stand in for the probes: a shipped description."""
    found = ["cpu-generic"]
    monkeypatch.setattr("weft.cli.machine._measured", lambda *rest: load(found[0]))
    return found


@pytest.fixture
def own_place(monkeypatch, tmp_path):
    place = tmp_path / "data" / "cpu.json"
    monkeypatch.setattr("weft.cli.machine.hardware_path", lambda: place)
    return place


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rounds", 0), "--rounds must be at least 1, not 0"),
        (("--threads", -1), f"--threads are from 1 to {available_cores()}, not -1"),
        (("--threads", 100_000), f"1 to {available_cores()}, not 100000"),
    ],
)
def test_what_cannot_be_measured_is_told_first(arguments, says, monkeypatch) -> None:
    monkeypatch.setattr("weft.cli.machine._measured", lambda *rest: pytest.fail("it measured"))
    with pytest.raises(BadOption, match=says):
        calibrate(*arguments)


def test_a_table_for_people_and_json_for_programs(measured, own_place, tmp_path) -> None:
    printed = calibrate("--out", tmp_path / "here.json").stdout
    assert printed.splitlines()[0].split() == ["level", "figure", "lowest", "median", "highest"]
    assert "memory, 14.9 GiB: read" in printed and "matmul f32" in printed
    printed = calibrate("--out", tmp_path / "here.json", "--json").stdout
    assert json.loads(printed) == json.loads((tmp_path / "here.json").read_text())


def test_it_says_who_reads_the_file(measured, own_place, tmp_path) -> None:
    told = calibrate().stderr
    assert f"saved in {own_place}; weft explain and weft kernels use it" in told
    assert "no GPU was measured" in told and own_place.exists()
    told = calibrate("--out", tmp_path / "here.json").stderr
    assert f"read {own_place} instead" in told and "--hardware" not in told
    measured[0] = "h200"
    assert "weft tune use it" in calibrate().stderr
    file = tmp_path / "here.json"
    assert f"weft tune takes it with --hardware {file}" in calibrate("--out", file).stderr


def _rates(value: object) -> list[Rate]:
    if isinstance(value, Rate):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    elif is_dataclass(value):
        value = tuple(getattr(value, item.name) for item in fields(value))
    return [rate for each in value for rate in _rates(each)] if isinstance(value, tuple) else []


@pytest.mark.parametrize("name", ["h200", "cpu-generic"])
def test_every_rate_of_a_file_is_a_figure(name) -> None:
    machine = load(name)
    figures = machine.figures()
    assert sorted(map(repr, _rates(machine))) == sorted(repr(each.rate) for each in figures)
    assert len({(each.of, each.name) for each in figures}) == len(figures)
