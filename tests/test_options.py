"""Options: environment, unknown names, impossible values."""

from pathlib import Path

import pytest
from weft.cli.render import parse_size
from weft.ir.display.units import bytes_text, seconds_text
from weft.options import BadOption, Launch, Options


def test_the_environment_is_read_in_one_place():
    options = Options.from_env({"WEFT_CACHE": "/tmp/x", "WEFT_THREADS": "3"})
    assert options.cache == Path("/tmp/x") and options.thread_count == 3 and not options.validate
    assert Options.from_env({"WEFT_VALIDATE": "1"}).validate


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": -1},
        {"weight": "f32"},
        {"weights": "f64"},
        {"max_batch": 0},
        {"target": "tpu"},
        {"tp": 0},
        {"kv": "int8"},
        {"weights": "fp8"},
        {"kv": "fp8"},
    ],
)
def test_wrong_options_are_refused(changes):
    with pytest.raises(BadOption):
        Options().changed(**changes)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WEFT_THREADS": "abc"}, "WEFT_THREADS is a number, not 'abc'"),
        ({"WEFT_THREADS": "-3"}, "WEFT_THREADS is a number of threads, not -3"),
        ({"WEFT_VALIDATE": "perhaps"}, "WEFT_VALIDATE is yes or no, not 'perhaps'"),
        ({"WEFT_TUNE": "always"}, "tune must be one of cached, off"),
    ],
)
def test_a_wrong_environment_names_the_variable(environment, says):
    with pytest.raises(BadOption, match=says):
        Options.from_env(environment)


def test_a_wrong_rank_names_the_variable():
    with pytest.raises(BadOption, match="WORLD_SIZE is a number, not 'two'"):
        Launch.from_env({"RANK": "0", "WORLD_SIZE": "two"})


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("2GiB", 2 << 30), ("1.5k", 1536), ("100", 100)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_a_wrong_size_says_how_to_write_one():
    with pytest.raises(BadOption, match="512MiB"):
        parse_size("lots")


def test_units_are_for_people():
    assert bytes_text(1536) == "1.5 KiB" and seconds_text(0.00123) == "1.2 ms"


def test_a_users_mistakes_have_one_public_class() -> None:
    import weft

    with pytest.raises(weft.WeftError, match="syntax error"):
        weft.compile("program p( -> int:\n    return 1", "tiny-dense")
    assert "WeftError" in dir(weft)


def test_a_choice_that_may_be_left_out_is_not_listed_as_nothing() -> None:
    with pytest.raises(BadOption, match="activations must be one of bf16, or left out, not 'fp7'"):
        Options(activations="fp7")
