"""`weft tune`: what it prints, the policy that it writes, and its errors."""

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import weft
from typer.testing import CliRunner
from weft.cli.app import app
from weft.compiler.stages import NoPictures
from weft.cost_model.hardware import NoSuchFigure
from weft.cost_model.hardware_file import dumps, load
from weft.cost_model.hrm.popularity import BadPopularity
from weft.cost_model.hrm.shape import NoExperts, UnevenPages
from weft.cost_model.hrm.trouble import GpuTooSmall, HostTooSmall
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.cost_model.policy_text import dumps as policy_text
from weft.cost_model.policy_text import loads
from weft.frontend.checkpoints.checkpoint import UnknownModel
from weft.ir.diagnostics import WeftError
from weft.options import BadOption


def tune(*arguments) -> str:
    result = CliRunner().invoke(app, ["tune", *map(str, arguments)])
    if isinstance(result.exception, WeftError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


MIXTRAL = ("random:mixtral-8x7b-16l", "--gpu-memory", "16GiB", "--host-memory", "128GiB")


def test_text_names_policy_bound_and_lifts(tmp_path) -> None:
    file = tmp_path / "policy.txt"
    text = tune(*MIXTRAL, "--prompt", 77, "--new", 128, "--batch", 1500, "--out", file)
    policy = loads(file.read_text())
    assert f"{policy.batch} sequences in {policy.micro_batches} micro-batches" in text
    assert "bound      link: " in text
    lifts = text.split("what a quarter more would bring\n")[1]
    assert "link to the GPU" in lifts and "GPU arithmetic" not in lifts
    assert re.search(r"twelve bits, exactly \(--pages bf12\), would bring \+[12]\d\.\d%", lifts)
    assert len(policy.layers) == 16 and policy.pages_per_expert == 1


def test_json_of_a_shipped_model_and_what_is_said_meanwhile(monkeypatch) -> None:
    from weft.cli import live

    said = []
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    monkeypatch.setattr(live, "remarks", lambda: Mock(print=lambda text, style: said.append(text)))
    line = tune("tiny-moe", "--gpu-memory", "32MiB", "--batch", 64, "--json")
    assert len(said) == 1 and said[0].startswith("still searching")
    value = json.loads(line)
    assert value["model"] == "tiny-moe" and value["policy"]["batch"] == 64
    low, expected, high = value["tokens_per_s"]
    assert 0 < low <= expected <= high
    assert value["bound"] in value["roofs_s"]
    assert sum(value["gpu_bytes"].values()) <= 32 << 20


def test_cold_experts_are_named_by_a_file(tmp_path) -> None:
    """What the file calls unused is on the CPU before anything else is."""
    file, out = tmp_path / "counts.json", tmp_path / "policy.txt"
    file.write_text(json.dumps([9, 9, 9, 0, 9, 9, 9, 9]))
    tune(*MIXTRAL, "--prompt", 77, "--new", 8, "--batch", 64, "--popularity", file, "--out", out)
    layers = loads(out.read_text()).layers
    assert any(layer.cpu for layer in layers)
    assert all(3 in layer.cpu for layer in layers if layer.cpu)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((*MIXTRAL[:1], "--gpu-memory", "1.5GiB"), GpuTooSmall, "too small: one layer's working"),
        ((*MIXTRAL[:3], "--host-memory", "8GiB"), HostTooSmall, r"8.0 GiB is \d+.\d GiB too"),
        (("tiny-dense",), NoExperts, "is dense"),
        (("no-such",), UnknownModel, "no-such"),
        (("random:mixtral-8x7b", "--pages-per-expert", 3), UnevenPages, "into 3 pages"),
        (("tiny-moe", "--pages", "bf15"), BadOption, "no format of pages is 'bf15'"),
        (("tiny-moe", "--hardware", "cpu-generic"), BadOption, "describes no GPU"),
        (("tiny-moe", "--hardware", "h300"), WeftError, "the shipped ones are cpu-generic, h200"),
        (("tiny-moe", "--hardware", "h300"), WeftError, "'h300' is no shipped hardware, and no"),
        (("tiny-moe", "--disk", "1GiB"), BadOption, "'h200' describes no disk"),
        (("tiny-moe", "--gpu-memory", "much"), BadOption, "'much' is no size"),
        (("tiny-moe", "--popularity", "none.json"), BadPopularity, "none.json cannot be read"),
        (("tiny-moe", "--popularity", __file__), BadPopularity, "line 1 column 3: no JSON"),
        (("tiny-moe", "--batch", -1), BadOption, "are not negative"),
        (("tiny-moe", "--prompt", 8000, "--new", 200), BadOption, "are too long\nhint: .* of 8192"),
        (("tiny-moe", "--kv", "int3"), BadOption, "not kept as 'int3'"),
        (("tiny-moe", "--plot", "rates.pdf"), BadOption, "neither .svg nor .png"),
        (("tiny-moe", "--measured", "r.json"), BadOption, "for the points of a --plot"),
        (("tiny-moe", "--plot", "r.svg", "--measured", "none.json"), WeftError, "none.json"),
    ],
)
def test_errors(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        tune(*arguments)


def test_explain_says_how_a_policy_fits(tmp_path) -> None:
    """`weft run` tells only what came of it."""
    chat = Path(weft.__file__).parent / "examples" / "chat.weft"
    file = tmp_path / "policy.txt"
    file.write_text(policy_text(Policy(8, 4, "cpu", (Placement("rrssssss"),) * 5, 8, 1, 12)))
    options = ["--gpu-memory", "20MiB", "--host-memory", "12MiB", "--offload-policy", str(file)]
    told = CliRunner().invoke(app, ["explain", str(chat), "-m", "tiny-moe", *options,
                                    "--kv-memory", "4MiB"]).output  # fmt: skip
    assert "policy given, but 12 pages more come from disk: host memory holds no more" in told


@pytest.mark.slow
def test_calibrate_measures_memory_by_threads_and_the_disk(tmp_path) -> None:
    file = tmp_path / "here.json"
    result = CliRunner().invoke(app, ["calibrate", "--out", str(file), "--rounds", "1"])
    assert result.exit_code == 0, result.output
    machine = load(file)
    assert {"cpu", "disk"} <= {level.name for level in machine.levels}
    assert machine.level("cpu").main.by_threads[1].median > 0
    assert machine.level("cpu").vector_rate("attention").min > 0
    assert machine.level("cpu").vector_by_threads["attention"][1].median > 0
    assert machine.link("disk", "cpu").bandwidth.median > 0
    again = CliRunner().invoke(app, ["calibrate", "--out", str(file), "--rounds", "1", "--no-disk"])
    assert again.exit_code == 0 and "disk" not in {level.name for level in load(file).levels}


def test_hardware_without_links_says_what_is_missing(tmp_path) -> None:
    file = tmp_path / "unlinked.json"
    file.write_text(dumps(replace(load("h200"), links=())))
    with pytest.raises(NoSuchFigure, match="hardware error: .* has no link 'cpu->gpu'") as caught:
        tune("tiny-moe", "--hardware", file)
    assert "weft calibrate" in caught.value.hint_text


def test_a_run_without_steps_is_refused_unless_prompts_overlap() -> None:
    """Prefill alone was priced, and what decode does was anything."""
    with pytest.raises(BadOption, match="with --new 1 .* no step would be tuned for"):
        tune("tiny-moe", "--new", 1)
    tiny = ("tiny-moe", "--gpu-memory", "32MiB", "--batch", 8, "--new", 1, "--overlap", "--json")
    assert json.loads(tune(*tiny))["step_s"][1] > 0


SMALL = ("random:mixtral-8x7b-4l", "--gpu-memory", "8GiB", "--batch", "64", "--prompt", "77")


@pytest.mark.slow  # tests/cost_model/hrm/test_search.py holds the search with free pages to all
def test_pages_that_are_chosen_are_as_fast_as_whole_experts() -> None:
    rates = [json.loads(tune(*SMALL, "--pages-per-expert", n, "--json"))["tokens_per_s"][1]
             for n in (0, 1)]  # fmt: skip
    assert rates[0] >= 0.98 * rates[1]


def test_experts_may_be_cut_and_int4_pages_stay_off_the_cpu(tmp_path) -> None:
    assert "pages      an expert each" in tune(*SMALL)
    assert "pages      4 an expert" in tune(*SMALL, "--pages-per-expert", "4")
    out = tmp_path / "policy.txt"
    capped = ("random:mixtral-8x7b-4l", "--gpu-memory", "3GiB", "--batch", "32", "--pages", "int4")
    tune(*capped, "--out", str(out))
    policy = loads(out.read_text())
    assert policy.page_format == "int4" and not any(layer.cpu for layer in policy.layers)


def test_pictures_without_their_package_are_refused_before_the_search(monkeypatch) -> None:
    monkeypatch.setattr("weft.compiler.stages.find_spec", lambda name: None)
    monkeypatch.setattr("weft.cli.tune._search", lambda *rest: pytest.fail("it searched"))
    with pytest.raises(NoPictures, match="pictures need matplotlib"):
        tune("tiny-moe", "--plot", "rates.svg")
