"""`weft kernels`: each kernel of a step, with its share of the roof."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import weft.cli.kernels as command
import weft.runtime.execution.compiled_executor as executor
from typer.testing import CliRunner
from weft.cli.app import app
from weft.cli.hardware import gpu_hardware, hardware_of
from weft.cost_model.hardware import NoSuchFigure
from weft.cost_model.hardware_file import load, save
from weft.runtime.devices.device import Device
from weft.tests.cli.test_cli import HELLO, weft


def test_a_step_may_be_larger_than_a_run_has_by_default():
    printed = weft("kernels", "--batch", "40", "--no-measure")
    assert "a decode step of 40 x 256 tokens" in printed and "f32[40," in printed


def test_kernels_lists_each_with_its_share_of_the_roof():
    lines = json.loads(weft("kernels", "--model", "tiny-dense", "--json"))
    head = next(line for line in lines if line["shape"].endswith("> f32[1,4096]"))
    assert head["measured_us"] > 0 and head["gb_s"] > 0 and head["percent_of_roof"] > 0
    assert head["launches"] == 1 and "matmul" in head["kernel"]
    printed = weft("kernels", "--model", "tiny-dense", "--prefill", "40", "--no-measure")
    assert "a prompt of 40 tokens" in printed and "library" in printed


def test_a_model_that_is_not_there_is_all_that_is_told():
    result = CliRunner().invoke(app, ["kernels", "--model", "nope"])
    assert "no model 'nope'" in str(result.exception) and not result.output + result.stderr


def test_kernels_and_explain_tell_the_same_measured_times(tmp_path, monkeypatch):
    file = tmp_path / "hello.weft"
    file.write_text(HELLO)
    monkeypatch.setattr(
        executor, "step_seconds", lambda launches: [(1 + each.number) / 1e3 for each in launches]
    )
    kernels = json.loads(weft("kernels", "--json").splitlines()[-1])
    assert len({line["measured_us"] for line in kernels}) == len(kernels)
    total = sum(line["measured_us"] * line["launches"] for line in kernels)
    table = weft("explain", file).split("\na decode step: ")[1].splitlines()[3:]
    rows = [line.split() for line in table if line.startswith("graph.")]
    assert sum(float(row[3]) for row in rows) == pytest.approx(total, rel=1e-3)


def test_kernels_are_listed_as_a_search_left_them(monkeypatch):
    compiled, step, made = command._compilation, command._step, []
    monkeypatch.setattr(
        command, "_compilation", lambda options: made.append(compiled(options)) or made[-1]
    )
    seen = []
    monkeypatch.setattr(command, "_search", lambda compilation, hardware: seen.append(compilation))
    monkeypatch.setattr(
        command,
        "_step",
        lambda compilation, *rest: seen.append(compilation) or step(compilation, *rest),
    )
    weft("kernels", "--tune", "--no-measure")
    searched, listed = seen
    assert made == [searched, listed] and searched is not listed


@pytest.mark.parametrize(
    ("card", "measured", "ceilings", "told"),
    [("NVIDIA H200", "NVIDIA H200", "h200", ""), ("NVIDIA A100", "NVIDIA A100", "mine", ""),
     ("NVIDIA A100", "NVIDIA L4", "h200", "of an H200, this is a NVIDIA A100: `weft calibrate`"),
     ("NVIDIA L4", "NVIDIA L40S", "h200", "of an H200, this is a NVIDIA L4: `weft calibrate`"),
     ("NVIDIA GH200 480GB", "NVIDIA GH200 480GB", "mine", "")],
)  # fmt: skip
def test_roofs_are_those_that_were_measured_of_this_gpu(
    card, measured, ceilings, told, tmp_path, monkeypatch, capsys
):
    file, shipped = tmp_path / "cpu.json", load("h200")
    levels = shipped.levels[::-1]  # `weft calibrate` has the CPU first
    save(replace(shipped, name="mine", levels=levels, provenance={"device": f"x with {measured}"}),
         file)  # fmt: skip
    monkeypatch.setattr("weft.cost_model.hardware_file.hardware_path", lambda: file)
    monkeypatch.setattr(Device, "find", staticmethod(lambda: SimpleNamespace(name=card)))
    found = gpu_hardware()
    assert (found.name, found.level().kind, len(found.levels)) == (ceilings, "gpu", 2)
    assert told in " ".join(capsys.readouterr().err.split()) or not told


def test_a_step_is_priced_by_the_gpu_that_is_here_or_was_measured_or_is_named(
    tmp_path, monkeypatch, capsys
):
    file, shipped = tmp_path / "cpu.json", load("h200")
    monkeypatch.setattr("weft.cost_model.hardware_file.hardware_path", lambda: file)
    monkeypatch.setattr("weft.codegen.measure.gpu.has_gpu", lambda: False)
    assert hardware_of("", on_gpu=True).name == "h200"
    assert "priced for an H200" in " ".join(capsys.readouterr().err.split())
    save(replace(shipped, name="mine", levels=shipped.levels[::-1]), file)
    found = hardware_of("", on_gpu=True)
    assert (found.name, found.level().kind) == ("mine", "gpu") and not capsys.readouterr().err
    assert hardware_of("h200", on_gpu=False).level().kind == "cpu"
    monkeypatch.setattr("weft.codegen.measure.gpu.has_gpu", lambda: True)
    monkeypatch.setattr(Device, "find", staticmethod(lambda: SimpleNamespace(name="NVIDIA H200")))
    assert hardware_of("", on_gpu=True).name == "h200"
    assert hardware_of(str(file), on_gpu=True).name == "mine"
    with pytest.raises(NoSuchFigure, match="level of kind"):
        hardware_of("cpu-generic", on_gpu=True)
