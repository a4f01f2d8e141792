"""`weft calibrate-attention` and `weft evaluate` as a user types them."""

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.frontend.checkpoint import open_checkpoint
from weft.ir.calibration_file import load_calibration
from weft.ir.diagnostics import WeftError


def weft(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, WeftError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


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
        (["tiny-dense", "--text", "TEXT", "--tokens", "9"], "9 tokens, too few"),
        (["tiny-dense", "--text", "TEXT", "--tokens", "-1"], "must be positive"),
        (["tiny-dense", "--text", "TEXT", "--statistic", "v"], "one of centred, qk, q, k"),
        (["random:tiny-dense", "--text", "TEXT"], "give --out FILE"),
        (["tiny-dens", "--text", "TEXT"], "no model 'tiny-dens'"),
        (["tiny-moe", "--text", "TEXT", "--tokens", "70", "--out", "no/place.json"], "--out FILE"),
    ],
)
def test_what_cannot_be_calibrated_is_told(arguments, says, text):
    with pytest.raises(WeftError, match=says):
        weft("calibrate-attention", *(text if part == "TEXT" else part for part in arguments))
