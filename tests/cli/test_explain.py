"""What `weft explain` says: lines of the source, proofs, and what a GPU leaves to the library."""

import pytest
from typer.testing import CliRunner
from weft.cli.app import app
from weft.ir.diagnostics import WeftError
from weft.tests.cli.test_cli import HELLO, weft


@pytest.fixture
def hello(tmp_path):
    file = tmp_path / "hello.weft"
    file.write_text(HELLO)
    return file


def test_explain_shows_source_lines(hello):
    told = weft("explain", hello, "--no-measure")
    assert "fork times as greetings:" in told and "read by len(times)" in told


@pytest.mark.parametrize(
    ("memory", "said"),
    [("8MiB", "however many rows are given"), ("4MiB", "up to 32 rows given at once, or more of")],
)
def test_explain_says_for_how_many_rows_a_proof_is_held_to(tmp_path, memory, said):
    path = tmp_path / "short.weft"
    path.write_text('program p(n: int) -> str:\n    "Go:"\n    gen x(max_tokens=4)\n    return x\n')
    told = weft("explain", path, "--no-measure", "--kv-memory", memory)
    assert "16 rows need at most" in told and said in told


def test_explain_reads_its_rows_before_it_says_anything(hello):
    result = CliRunner().invoke(app, ["explain", str(hello), "--rows", "missing.jsonl"])
    assert isinstance(result.exception, WeftError) and result.output == ""


def test_explain_says_what_a_gpu_leaves_to_the_library_and_why(hello):
    said = weft("explain", hello, "--target", "cuda", "--hardware", "h200")
    assert "matmul call the library: dense products are the vendor library's on a GPU" in said
    assert "attention over many rows is our kernel's" in said and "on h200" in said
