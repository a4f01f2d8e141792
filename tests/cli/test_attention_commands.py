"""`weft calibrate-attention` and `weft evaluate` as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.evaluation.attention import judged
from weft.evaluation.harness import Measured
from weft.evaluation.paired import Paired
from weft.evaluation.perplexity import Perplexity
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.diagnostics import WeftError
from weft.ir.sparse.calibration_file import load_calibration
from weft.ir.sparse.policy import parse_policy
from weft.tests.cli.test_cli import weft


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The river was near the house, and the lamp was under the tree.\n" * 20)
    return file


def test_a_model_is_calibrated_and_the_file_is_of_it(text, tmp_path):
    out = tmp_path / "found.json"
    weft("calibrate-attention", "tiny-moe", "--text", text, "--tokens", 150, "--out", out)
    checkpoint = open_checkpoint("tiny-moe")
    found = load_calibration(out, checkpoint.config, checkpoint.identity, "tiny-moe")
    assert found.ranged and len(found.layers) == 5 and found.provenance.tokens == 151
    assert found.provenance.name == "tiny-moe" and len(found.provenance.text) == 64
    other = open_checkpoint("tiny-dense")
    with pytest.raises(WeftError, match="made for another model"):
        load_calibration(out, other.config, other.identity, "tiny-dense")


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_the_shipped_models_are_calibrated(model):
    checkpoint = open_checkpoint(model)
    found = load_calibration(checkpoint.calibration_file, checkpoint.config, checkpoint.identity,
                             model)  # fmt: skip
    assert found.ranged and found.provenance.tokens > 8000


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["tiny-dense", "--text", "none.txt"], "none.txt cannot be read"),
        (["tiny-dense", "--text", "TEXT", "--tokens", "9"], "--tokens is at least 64, not 9"),
        (["tiny-dense", "--text", "SHORT"], r"short.txt has \d tokens, too few to calibrate on"),
        (["tiny-dense", "--text", "TEXT", "--tokens", "-1"], "--tokens is at least 64, not -1"),
        (["tiny-dense", "--text", "TEXT", "--statistic", "v"], "one of centred, qk, q, k"),
        (["random:tiny-dense", "--text", "TEXT"], "give --out FILE"),
        (["tiny-dens", "--text", "TEXT"], "no model 'tiny-dens'"),
        (["tiny-moe", "--text", "TEXT", "--tokens", "70", "--out", "no/a.json"], "no folder no"),
    ],
)
def test_what_cannot_be_calibrated_is_told(arguments, says, text, tmp_path):
    files = {"TEXT": text, "SHORT": tmp_path / "short.txt"}
    files["SHORT"].write_text("Some words.")
    with pytest.raises(WeftError, match=says):
        weft("calibrate-attention", *(files.get(part, part) for part in arguments))


def test_evaluate_compares_on_the_same_questions(tmp_path, text):
    plot = tmp_path / "loss.svg"
    printed = weft(
        "evaluate", "tiny-moe", "--attention", "sparse(k=20, min_context=0),sparse(ratio=1)",
        "--lengths", "256", "--contexts", "1", "--text", text, "--tokens", "120", "--beyond", "60",
        "--only", "perplexity,pairs", "--plot", plot, "--json",
    )  # fmt: skip
    lines = printed.strip().splitlines()
    assert lines[0] == "| tiny-moe | dense | sparse(k=20, min_context=0) | sparse(ratio=1.0) |"
    found = json.loads(lines[-1])
    dense, few, all_read = (found[name] for name in found)
    assert all_read["perplexity"] == dense["perplexity"]
    assert all_read["retrieval"] == dense["retrieval"]
    assert few["perplexity"]["loss"] != 0 and few["read"]["pairs 256"] < 0.2
    assert few["bytes"]["pairs 256"] == pytest.approx(few["read"]["pairs 256"] + 1 / 32)
    picture = plot.read_text()
    assert picture.startswith("<?xml") and "sparse(k=20, min_context=0)" in picture


class Found:
    """An evaluation that has found something, at once."""

    judged = ()

    def __init__(self, subject, attentions, *_):
        type(self).judged = attentions
        lost = Perplexity(9.0, 9.0, 0.02, 0.001, 100)
        lengths = {512: Paired(3, 1, 8), 1024: Paired(2, 1, 8)}
        against = {"pairs": lengths, "needles": {512: Paired(0, 1, 8)}}
        share = {"perplexity": 0.1}
        self.found = {name: Measured(name, lost, against=against, read=share, bytes=share)
                      for name in ("dense", "sparse(k=64)")}  # fmt: skip

    def run(self):
        return self.found


@pytest.mark.parametrize("full", ["picture", "table", "both"])
def test_a_full_disk_loses_nothing_that_another_takes(full, uncalibrated, tmp_path, monkeypatch):
    """The values are printed, and of the picture and the table of losses each is tried."""
    model = uncalibrated / "attention_calibration.json"
    model.symlink_to(open_checkpoint("tiny-moe").calibration_file)
    write, plot = Path.write_bytes, tmp_path / "loss.svg"

    def write_bytes(path, data):
        if full == "both" or ("loss.svg" in path.name) == (full == "picture"):
            write(path, data[:9])
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr("weft.evaluation.harness.Evaluation", Found)
    asked = ["evaluate", uncalibrated, "--attention", "sparse(k=64)", "--save", "--json"]
    result = CliRunner().invoke(app, [*map(str, asked), "--plot", str(plot)])
    assert isinstance(result.exception, WeftError)
    place = plot if full != "table" else uncalibrated
    assert f"{place}" in str(result.exception) and "No space left" in str(result.exception)
    assert json.loads(result.stdout.splitlines()[-1])["sparse(k=64)"]["perplexity"]["loss"] == 0.02
    assert plot.exists() == (full == "table")
    table = uncalibrated / "attention_losses.json"
    assert table.exists() == (full == "picture")
    if full == "picture":
        assert json.loads(table.read_text())["rows"] == [
            {"policy": "sparse(k=64)", "loss": 0.02, "bytes": 0.1, "points": 12.5, "length": 1024}
        ]
    assert not [file.name for file in (*tmp_path.iterdir(), *uncalibrated.iterdir())
                if file.name.startswith(".")]  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_gpus_target_is_judged_by_a_gpus_selection(target, monkeypatch):
    """What runs there; the model itself is on the CPU here."""
    monkeypatch.setattr("weft.cli.attention.use_device", lambda *_: "cpu")
    monkeypatch.setattr("weft.evaluation.harness.Evaluation", Found)
    weft("evaluate", "tiny-moe", "--attention", "sparse(k=64)", "--target", target)
    assert [each.words for each in Found.judged[1:]] == [target == "cuda"]


@pytest.mark.slow
def test_evaluate_runs_the_zoos_tasks():
    printed = weft("evaluate", "tiny-moe", "--attention", "sparse(ratio=1)", "--only", "tasks",
                   "--examples", "2", "--json")  # fmt: skip
    dense, all_read = json.loads(printed.splitlines()[-1]).values()
    assert all_read["tasks"] == dense["tasks"] and len(dense["tasks"]) == 23
    assert dense["task_mean"] > 0.8


@pytest.fixture
def uncalibrated(tmp_path):
    folder = tmp_path / "tiny-moe"
    folder.mkdir()
    for file in open_checkpoint("tiny-moe").folder.iterdir():
        if not file.name.startswith("attention_"):
            (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "run: weft calibrate-attention .*/tiny-moe --text FILE"),
        (["--calibration", "DENSE"], "made for another model"),
        (["--attention", "sparse(k=0)"], "k must be above 0"),
        (["--attention", "sparse(k=64, dense=[9])"], "no layer 9 among 5"),
        (["--attention", "sparse(k=64, channels=65)"], "a head has 64"),
        (["--attention", "dense", "--only", "chess"], "no part 'chess'"),
        (["--attention", "dense", "--lengths", "1m"], "no length of at least 128"),
        (["--attention", "dense", "--lengths", "16k", "--only", "pairs"], "do not fit the context"),
        (["--attention", "dense", "--text", "TEXT"], "no part longer than 1024 tokens"),
        (["--attention", "dense", "--tokens", "64"], "--tokens 64 leaves no token .* than 1024"),
        (["--attention", "dense", "--chunk", "1025"], "--chunk 1025 leaves .*\n.*--chunk 1026"),
        (["--attention", "dense", "--contexts", "0"], "--contexts is at least 1, not 0"),
        (["--attention", "dense", "--chunk", "2"], "--chunk is at least 33, not 2"),
        (["--attention", "dense", "--tokens", "9"], "--tokens is at least 33, not 9"),
        (["--attention", "dense", "--beyond", "-5"], "--beyond is at least 0, not -5"),
        (["--attention", "dense", "--save"], "--save keeps what sparse policies lose"),
        (["--calibration", "DENSE", "--save"], "--save keeps what .* by its own calibration"),
        (["--calibration", "DENSE", "--statistic", "q", "--kernels"], "the lists of q\\*k"),
        (
            ["--only", "perplexity,pairs", "--save"],
            "--save keeps losses of .* retrieval\n.*--only perplexity,pairs,needles",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_told(arguments, says, uncalibrated, text):
    dense = open_checkpoint("tiny-dense").calibration_file
    places = {"TEXT": text, "DENSE": dense}
    with pytest.raises(WeftError, match=says):
        weft("evaluate", uncalibrated, "--contexts", "1",
             *(places.get(part, part) for part in arguments))  # fmt: skip


def test_a_published_file_serves_bf16_labels_only(tmp_path):
    file = tmp_path / "published.json"
    rows = [list(range(64))] * 4
    file.write_text(json.dumps({f"model.layers.{i}.self_attn.qk_proj": rows for i in range(5)}))
    common = ("evaluate", "tiny-moe", "--calibration", file, "--only", "pairs", "--lengths", "256",
              "--contexts", "1", "--attention")  # fmt: skip
    with pytest.raises(WeftError, match="use labels=bf16"):
        weft(*common, "sparse(k=64)")
    assert "sparse(k=64, labels=bf16)" in weft(*common, "sparse(k=64, labels=bf16)")
    with pytest.raises(WeftError, match="no .*k_proj"):
        weft(*common, "sparse(k=64, labels=bf16)", "--statistic", "k")
    with pytest.raises(WeftError, match="one of q, k, qk, not 'v'"):
        weft(*common, "sparse(k=64, labels=bf16)", "--statistic", "v")
    with pytest.raises(WeftError, match="--calibration FILE"):
        weft("evaluate", "tiny-moe", "--statistic", "q")


def test_the_lists_of_a_published_file_are_three(tmp_path):
    """Each statistic has an order of its own."""
    file, checkpoint = tmp_path / "published.json", open_checkpoint("tiny-moe")
    config, rows = checkpoint.config, {}
    for turn, (name, heads) in enumerate((("q", 4), ("k", 2), ("qk", 4))):
        order = [(channel + turn) % 64 for channel in range(64)]
        rows |= {f"model.layers.{i}.self_attn.{name}_proj": [order] * heads for i in range(5)}
    file.write_text(json.dumps(rows))
    policy = parse_policy("sparse(k=64, labels=bf16)")
    found = [judged(checkpoint, [policy], file, name)[1].calibration for name in ("q", "k", "qk")]
    assert [each.head(0, 0).order[0] for each in found] == [0, 1, 2] and config.kv_heads == 2


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "p.weft"
    file.write_text('program p() -> str:\n    "Once"\n    gen a(max_tokens=2)\n    return a\n')
    return file


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--attention", "sparse(k=64)", "--max-loss", "0.0001"],
         r'is not measured\n.*evaluate tiny-dense --attention "dense,sparse\(k=64\)" --save'),
        (["--attention", "sparse(ratio=1/16)", "--max-loss", "0"], "lose .* max_loss .* 0.00%"),
        (["--attention", "sparse(ratio=0.0625)", "--max-loss", "1%"],
         "lose 4.98% of perplexity and .* points of .* 512 .* allows 1.00% and 1.00 points"),
        (["--attention", "dense", "--max-loss", "0.01"], "leave out one of the two"),
        (["--max-loss", "-0.1"], "a share such as 0.01, not -0.1"),
        (["-m", "random:tiny-dense", "--max-loss", "0.01"],
         "has no folder to keep one in\n.*take a model's folder, or a shipped model"),
        (["-m", "random:tiny-dense", "--attention", "sparse(k=64)"],
         "no folder to keep one in\n.*take a model's folder, or a shipped model"),
    ],
)  # fmt: skip
def test_budgets_of_loss_that_cannot_be_kept_are_told(arguments, says, program):
    for command in ("run", "explain"):
        with pytest.raises(WeftError, match=says):
            weft(command, program, *arguments)


def test_what_is_asked_for_shows_in_dumps_remarks_and_lists_of_kernels(program):
    asked = ("--max-loss", "5%")
    assert "graph.select" in weft("dump", program, "--after", "sparse-attention", *asked)
    said = weft("explain", program, "--no-measure", "--batch", 4, *asked)
    assert "sparse(top_p=0.8, channels=32) pays from" in said and "for a batch of 4" in said
    assert "where max_loss allows 5.00% and 5.00 points; what reads less loses more" in said
    assert "sparse(ratio=1/16) 66.93 points of retrieval at 512 tokens" in said
    adaptive = ("--attention", "sparse(top_p=0.8, channels=32)", "--no-measure")
    said = weft("explain", program, *adaptive)
    assert "expected to read 11.0% of the tokens, as measured of this model" in said
    listed = weft("kernels", *adaptive, "--context", 6000, "--json")
    assert any(line["kernel"].startswith("gathered") for line in json.loads(listed))
    dense = weft("kernels", *adaptive, "--context", 1000, "--json")
    assert not any(line["kernel"].startswith("gathered") for line in json.loads(dense))
