"""What things look like: escaped everywhere, the same facts in HTML and terminal, no network."""

import io
import re
from xml.etree import ElementTree

import pytest
import weft
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from weft.codegen.kernel import BuildStatistics, Kernel
from weft.compiler import Compilation
from weft.cost_model.binding import decode
from weft.cost_model.hardware_file import load
from weft.cost_model.picture import Roofline
from weft.cost_model.roofline import predict, step
from weft.ir.display.highlight import RULES, words
from weft.ir.display.markup import Markup, element
from weft.ir.display.plot import Scale
from weft.ir.display.roofline import Ceiling, Point, RooflinePlot, Slope, Turn
from weft.ir.display.timeline import Amounts, Interval, Series, Timeline, Track
from weft.ir.display.tree import Stretch, StretchTree
from weft.ir.display.units import bytes_text, seconds_text, si
from weft.ir.display.view import Facts, Figure, Grid, Listing, Said, Shown, View
from weft.runtime.results import Result, Rows, Stats

PLANTED = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
PROGRAM = """
program planted(essay: str) -> str:
    user "<script>alert('x')</script> {essay}"
    fork side in ["<script>a", "<script>b"] as sides:
        user "{side}"
        assistant gen answer(max_tokens=4)
        yield answer
    assistant select grade from ["<script>", "<b>"]
    return grade
"""


def test_numbers_are_rounded_to_the_unit_that_they_are_written_in():
    assert [si(999.4, "B/s"), si(999.9, "B/s"), si(999_999, "B/s")] == [
        "999 B/s",
        "1 kB/s",
        "1 MB/s",
    ]
    assert [bytes_text(1023), bytes_text((1 << 20) - 1)] == ["1023 B", "1.0 MiB"]
    assert [seconds_text(999.96e-6), seconds_text(0.99999)] == ["1.0 ms", "1.00 s"]


@pytest.fixture(scope="module")
def compilation():
    return Compilation(PROGRAM)


def terminal(thing):
    console = Console(file=io.StringIO(), width=100, highlight=False)
    console.print(thing)
    return console.file.getvalue()


def kernel():
    return Kernel(PLANTED, print, lambda: PLANTED, PLANTED, BuildStatistics(True, 0.1, "k"))


def charts():
    points = (Point(PLANTED, 0.5, 1e9, "memory bound", 1e-3, key=PLANTED), Point("b", 8, 9e10),
              Point("copy", 0, 0))  # fmt: skip
    yield RooflinePlot(
        PLANTED, (Slope(PLANTED, 3e10),), (Ceiling("f32", 2e11),), points, (Turn(PLANTED, 2.0),)
    )
    yield Timeline(PLANTED, (Track(PLANTED, (Interval(0, 9, PLANTED, PLANTED, PLANTED),)),))
    yield Amounts(PLANTED, (Series(PLANTED, ((0, 1), (2, 5))),), unit=PLANTED, limit=6)
    yield StretchTree(PLANTED, (Stretch(0, 9, PLANTED, 2, (Stretch(9, 1, PLANTED, 1),), "k"),))


def shown(compilation):
    hardware = load("cpu-generic")
    costs = predict(compilation.graph, decode(1, 64), hardware)
    yield compilation.program
    yield compilation.plan
    yield compilation.graph
    yield from (record for record in compilation.records if record.remarks)
    yield compilation.prefixes.tree([{"essay": PLANTED}])
    yield kernel()
    yield hardware
    yield step(costs)
    yield Roofline.of(PLANTED, hardware.level(), costs)
    yield Stats(first_token_seconds=0.1, preemptions=1, peak_kv_pages=3)
    yield Result(PLANTED, {PLANTED: PLANTED}, lambda: PLANTED, Stats())
    yield Rows([PLANTED, 1], {1: PLANTED}, Stats(rows=2))
    for chart in charts():
        yield planted_view(Figure(chart, PLANTED))
    yield planted_view(Facts(((PLANTED, PLANTED),)), Listing(PLANTED, "weft", PLANTED),
                       Listing(PLANTED, "diff", PLANTED, folded=True), Said(PLANTED),
                       Grid((PLANTED,), ((PLANTED,),), PLANTED, (2.0,)))  # fmt: skip


def planted_view(*blocks):
    class Planted(Shown):
        def view(self):
            return View(PLANTED, PLANTED, blocks)

    return Planted()


def test_html_is_escaped_whole_and_needs_no_network(compilation):
    for thing in shown(compilation):
        html = thing._repr_html_()
        assert not re.search(r"<(script|img|b>|link)", html)
        assert not re.search(r"(?:src|href)=|url\(|@import", html.replace("&lt;img src=x", ""))
        root = ElementTree.fromstring(f"<r>{html.replace('tabindex', 'tab')}</r>")  # well formed
        attributes = {name for node in root.iter() for name in node.attrib}
        assert not {name for name in attributes if name.startswith("on")}


def test_the_terminal_shows_the_same_facts(compilation):
    for thing in shown(compilation):
        text = terminal(thing)
        assert thing.view().title.split("\n")[0][:20] in text
        for block in thing.view().blocks:
            if isinstance(block, Facts):
                assert all(name in text for name, _ in block.pairs)


def test_a_picture_is_sound_xml_of_its_size():
    for chart in charts():
        root = ElementTree.fromstring(chart.svg())
        assert root.tag.endswith("svg")
        assert float(root.attrib["width"]) > 100
        assert all(len(line) <= 60 for line in chart.text(60).splitlines())


@settings(max_examples=50)
@given(st.text(), st.sampled_from(sorted(RULES)))
def test_highlighting_keeps_every_letter(text, language):
    line = text.replace("\n", " ")
    assert "".join(word for _, word in words(line, language)) == line


@given(st.text(), st.text())
def test_no_text_opens_or_closes_an_element(text, value):
    markup = element("p", text, title=value)
    assert isinstance(markup, Markup)
    assert markup.count("<") == 2 and markup.count(">") == 2
    assert markup.count('"') == 2  # quotes in text are escaped too


@given(
    st.floats(1e-9, 1e9), st.floats(1.001, 1e6), st.booleans(), st.floats(0.0, 1.0)
)  # fmt: skip
def test_a_scale_keeps_order_and_stays_inside(low, factor, log, share):
    scale = Scale(low, low * factor, 10, 500, log)
    value = low + share * (low * factor - low)
    assert 10 - 1e-6 <= scale(value) <= 500 + 1e-6
    assert scale(low) <= scale(value) <= scale(low * factor)
    assert all(
        low <= tick * (1 + 1e-9) and tick <= low * factor * (1 + 1e-9) for tick in scale.ticks()
    )
    assert len(scale.ticks()) <= 21


def test_empty_pictures_are_pictures():
    for chart in (
        Timeline("t", ()),
        Amounts("a", ()),
        Amounts("a", (Series("s", ()),)),
        StretchTree("s", ()),
        RooflinePlot("r", (Slope("m", 1e9),), (Ceiling("c", 1e9),)),
    ):
        ElementTree.fromstring(chart.svg())
        chart.text()


def test_an_amount_stays_until_its_next_time_and_all_have_one_axis():
    steps = Amounts("a", (Series("s", ((0, 8), (5, 4), (10, 4))), Series("t", ((5, 1),))), "GiB")
    long, short = (
        line.partition("  ")[2].partition(" peak")[0] for line in steps.text().split("\n")[:2]
    )
    assert set(long[: len(long) // 2]) == {"█"} and set(long[len(long) // 2 + 2 :]) == {"▄"}
    assert short.strip() == "█" * len(short.strip()) and short[: len(short) // 2 - 1].isspace()


def test_an_instant_at_the_end_is_seen():
    track = Track("a", (Interval(0, 9, "x", "k"), Interval(10, 10, "y", "e")))
    assert Timeline("t", (track,)).text(40).splitlines()[0].endswith("e")


def test_work_without_arithmetic_has_no_share_of_a_roof():
    chart = RooflinePlot("r", (Slope("m", 1e9),), (Ceiling("c", 1e9),), (Point("copy", 0, 0),))
    assert "no arithmetic  copy" in chart.text()
    ElementTree.fromstring(chart.svg())


def test_a_program_on_an_endpoint_shows_itself_before_its_first_call():
    executable = weft.compile(PROGRAM, "openai:http://127.0.0.1:9/v1#none")
    assert "none" in terminal(executable) and "@planted" in executable._repr_html_()
