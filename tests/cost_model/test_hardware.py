"""Hardware descriptions: a round trip through JSON, and errors that name their place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.hardware import Hardware, Level, Link, Memory, NoSuchFigure, Rate
from weft.cost_model.hardware_file import HardwareFileError, dumps, load, parse, save

positive = st.floats(1e-9, 1e18, allow_nan=False)
rates = st.lists(positive, min_size=3, max_size=3).map(lambda three: Rate(*sorted(three)))
optional = st.one_of(st.none(), rates)
counted = st.dictionaries(st.integers(1, 99), rates, max_size=2)
tables = st.dictionaries(st.sampled_from(["f32", "bf16", "f8e4m3"]), rates, max_size=3)


@st.composite
def machines(draw) -> Hardware:
    levels = []
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        sizes = sorted(draw(st.lists(positive, min_size=1, max_size=3)))
        memories = tuple(
            Memory(f"m{i}", size, draw(rates), draw(rates), draw(optional), draw(counted))
            for i, size in enumerate(sizes)
        )
        launch = {"serial": draw(rates)}
        levels.append(
            Level(
                name,
                "cpu",
                memories,
                draw(tables),
                draw(tables),
                launch,
                draw(st.integers(1, 99)),
                draw(st.dictionaries(st.just("attention"), counted)),
            )  # fmt: skip
        )
    several = [draw(optional) for _ in range(3)]
    link = Link(levels[0].name, levels[-1].name, draw(rates), *several)
    return Hardware("m", tuple(levels), (link,), {"note": draw(st.text())})


@given(machines())
def test_round_trip(machine: Hardware) -> None:
    assert parse(dumps(machine)) == machine


@pytest.mark.parametrize("name", ["cpu-generic", "h200"])
def test_shipped_files(name: str, tmp_path) -> None:
    machine = load(name)
    assert machine.name == name
    save(machine, tmp_path / "m.json")
    assert load(tmp_path / "m.json") == machine


def broken(change) -> str:
    value = json.loads(dumps(load("h200")))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "line 1 column 2: no JSON"),
        ("[" * 100_000, "top: it is nested too deeply"),
        ("1" * 5000, "top: a whole number of more than 4300 digits"),
        ('{"format": 1, "format": 1}', "top: the key 'format' stands twice"),
        (broken(lambda v: v["levels"][0]["memories"][0].update(read=10**400)),
         r"top.levels\[0\].memories\[0\].read: expected a positive number, found 1000"),
        (broken(lambda v: v["levels"][0].update(threads=0.5)), "a whole number, found 0.5"),
        (broken(lambda v: v["levels"][1].update(name="gpu")), "two levels have one name: gpu, gpu"),
        ("[]", "top: expected a table"),
        (broken(lambda v: v.pop("levels")), "top: 'levels' is missing"),
        (broken(lambda v: v.update(format=9)), "top.format: this weft reads format 1 only"),
        (broken(lambda v: v["levels"].clear()), "top.levels: at least one level"),
        (broken(lambda v: v["levels"][0]["memories"][0].update(read="fast")),
         r"top.levels\[0\].memories\[0\].read: expected a positive number, found 'fast'"),
        (broken(lambda v: v["levels"][1]["matmul"].update(f32=-1)), "positive number, found -1"),
        (broken(lambda v: v["levels"][0]["launch"].update(eager={"min": 2, "median": 1, "max": 3})),
         "min <= median <= max does not hold"),
        (broken(lambda v: v["levels"][1]["memories"][0].update(by_threads={"-1": 3})),
         "expected a number of threads, found '-1'"),
        (broken(lambda v: v["levels"][1].update(vector_by_threads={"attention": {"0": 3}})),
         r"vector_by_threads.attention: expected a number of threads, found '0'"),
        (broken(lambda v: v["links"][0].update(latency=0)), "latency: expected a positive number"),
        (broken(lambda v: v["links"][0].update(source="tpu")),
         "'tpu' is no level; levels: gpu, cpu"),
    ],
)  # fmt: skip
def test_corrupt_file_says_where(text: str, message: str) -> None:
    with pytest.raises(HardwareFileError, match=message):
        parse(text)


def test_missing_file_lists_the_shipped_ones(tmp_path) -> None:
    with pytest.raises(HardwareFileError, match="cpu-generic, h200"):
        load(tmp_path / "none.json")


def test_lookups_fail_with_what_is_there() -> None:
    machine = load("h200")
    assert machine.link("cpu", "gpu").bandwidth.median == 55.16e9
    assert machine.level().matmul_rate("i8") == machine.level().matmul_rate("bf16")
    with pytest.raises(NoSuchFigure, match="gpu, cpu"):
        machine.level("tpu")
    with pytest.raises(NoSuchFigure, match="cpu->gpu"):
        machine.link("gpu", "gpu")
    with pytest.raises(NoSuchFigure, match="eager, graph"):
        machine.level().launch_cost("warp")
