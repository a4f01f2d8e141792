"""The data of the page: every stage linked to its statements, kernels line by line, bad input."""

import base64
import gzip
import json
import re
from dataclasses import replace

import pytest
from weft.codegen.build import assemble, inspect_source, llvm_of
from weft.codegen.cache import CacheFull, KernelCache
from weft.codegen.locate import locate_tile, locate_triton, locate_tvm
from weft.codegen.locate_assembly import mended
from weft.codegen.triton.emit import emit
from weft.codegen.tvm.emit import emit_tvm
from weft.compiler import Compilation
from weft.compiler.stages import UnknownKernel
from weft.cost_model.hardware_file import load
from weft.explore import kernels as kernel_texts
from weft.explore.build import Wish, explore
from weft.explore.page import as_script_data, filled, page
from weft.explore.schedule import TokenPrices, plan_chart
from weft.explore.stages import module_listing, pass_entry, problem_of
from weft.ir.core import Module, walk
from weft.ir.diagnostics import Note, WeftError, WeftNameError
from weft.ir.parser import parse_module
from weft.ir.source import Span
from weft.passes.manager import PassRecord, Remark
from weft.passes.tile.regimes import merge_kernels

IR = """
program.tool name = @f, parameters = [], returns = str loc("ask.weft", 1, 1, 1, 9)
program.func name = @ask, parameters = [], returns = str { |%s: stream|
  %x = program.call_tool name = @f : str loc("ask.weft", 2, 5, 2, 20)
  program.return %x loc("other.weft", 3, 5, 3, 13)
} loc("ask.weft", 2, 1, 4, 9)
"""
SMALL = """program ask(topic: str) -> str:
    system "You answer."
    user "What is {topic}?"
    assistant gen answer(max_tokens=4)
    return answer
"""
FORKED = """program judge(essay: str) -> str:
    user "{essay}"
    fork side in ["a", "b", "c"] as sides:
        user "Judge its {side}."
        assistant gen review(max_tokens=5)
        yield review
    user "{sides}"
    assistant gen verdict(max_tokens=7)
    return verdict
"""


class UnboundName(WeftNameError):
    template = "{name!r} is not bound"
    hint = "bind {name}"


def unpacked(explored, name):
    panes = json.loads(gzip.decompress(base64.b64decode(explored.data["packed"][name])))
    return {pane["id"]: pane for pane in panes}


def test_the_data_model_is_this(golden):
    """Of fixed IR, so that it changes only with the model itself."""
    before = parse_module(IR, "ask.weft")
    after = Module((*before.operations[:1], before.operations[1].with_attributes(doc="seen")))
    span = Span("ask.weft", 2, 5, 2, 20)
    remarks = (Remark("look", "it was seen", span), Remark("look", "not here", None, done=False))
    record = PassRecord("look", before, after, 0.0012, remarks)
    error = UnboundName(name="x", span=span, notes=(Note("bound here", span),))
    told = {
        "stage": module_listing("program", "Program IR", "a stage", before, "ask.weft"),
        "passes": [pass_entry(record, ["any step"], "ask.weft")],
        "problem": problem_of(error, "program"),
    }
    golden("explore/data.json", json.dumps(told, indent=1) + "\n")


def test_each_statement_is_found_in_every_stage(explored, kernel_of):
    data = explored.data
    source = data["source"]["lines"]
    line = next(at for at, text in enumerate(source, 1) if "gen review" in text)
    for stage in data["stages"][:4]:
        assert len(stage["lines"]) == len(stage["links"])
        linked = [text for text, link in zip(stage["lines"], stage["links"], strict=True)
                  if link and link[0] <= line <= link[1]]  # fmt: skip
        assert any("review" in text for text in linked), stage["id"]
    kernels = data["statements"][str(line)]
    assert kernel_of("graph.partial", "decode 1") in kernels  # attention: this line generates
    assert {one["id"] for one in data["stages"]} >= {"graph", "step-0", "step-1"}


def test_kernels_are_linked_line_by_line_down_to_machine_code(explored, kernel_of):
    panes = unpacked(explored, kernel_of("graph.take_rows"))
    assert set(panes) == {"tile", "triton", "tvm", "assembly"}
    for pane in panes.values():
        assert len(pane["lines"]) == len(pane["origins"])
    store = next(at for at, text in enumerate(panes["tile"]["lines"]) if "tile.store" in text)
    (number,) = panes["tile"]["origins"][store]
    found = {
        name: [text for text, origins in zip(pane["lines"], pane["origins"], strict=True)
               if number in origins]
        for name, pane in panes.items()
    }  # fmt: skip
    assert any("tl.store" in text for text in found["triton"])
    assert any("out[" in text for text in found["tvm"])
    assert any("mov" in text or "add" in text for text in found["assembly"])
    assert len(found["assembly"]) < len(panes["assembly"]["lines"])
    assert "assembly" not in unpacked(explored, kernel_of("graph.rmsnorm"))


def test_ptx_is_linked_by_its_line_directives(explored, kernel_of):
    pytest.importorskip("triton")
    panes = unpacked(explored, kernel_of("graph.silu_mul"))
    assert set(panes) == {"tile", "triton", "tvm", "ptx"}
    store = next(at for at, text in enumerate(panes["tile"]["lines"]) if "tile.store" in text)
    (number,) = panes["tile"]["origins"][store]
    pairs = zip(panes["ptx"]["lines"], panes["ptx"]["origins"], strict=True)
    assert any("st.global" in text for text, origins in pairs if number in origins)


def test_located_texts_are_the_texts_that_are_compiled():
    for kernel, schedule in merge_kernels(Compilation(SMALL).regimes):
        count = len(list(walk((kernel,))))
        for located, text in (
            (locate_tvm(kernel, schedule), emit_tvm(kernel, schedule)),
            (locate_triton(kernel, schedule), emit(kernel, schedule).text),
            (locate_tile(kernel), None),
        ):
            assert text is None or "\n".join(located.lines).rstrip("\n") == text.rstrip("\n")
            assert len(located.lines) == len(located.origins)
            assert all(0 <= number < count for found in located.origins for number in found)


def test_lines_that_a_schedule_asks_for_are_the_kernels_and_others_stay_their_operations():
    seen = 0
    for kernel, schedule in merge_kernels(Compilation(SMALL).regimes):
        operations = list(walk((kernel,)))
        for launched in (schedule, replace(schedule, chained=True)):
            located = locate_triton(kernel, launched)
            text = emit(kernel, launched).text
            assert "\n".join(located.lines).rstrip("\n") == text.rstrip("\n")
            for line, origins in zip(located.lines, located.origins, strict=True):
                names = {operations[number].name for number in origins}
                if "gdc_wait" in line or "gdc_launch" in line:
                    seen += launched.chained
                    assert names == {"tile.kernel"}
                if line.strip().startswith("tl.store("):
                    assert names <= {"tile.store"}
    assert seen


def test_mended_debug_locations_belong_to_their_function():
    llvm = "\n".join([
        "define i32 @outer() !dbg !1 {", "  call void @inner(), !dbg !3", "}",
        "define void @inner() {", "  ret void, !dbg !4", "}",
        "!1 = distinct !DISubprogram(name: \"outer\")",
        "!3 = !DILocation(line: 0, scope: !1)", "!4 = !DILocation(line: 7, column: 1, scope: !1)",
    ])  # fmt: skip
    lines = mended(llvm).split("\n")
    assert lines[:3] == ["define i32 @outer() {", "  call void @inner()", "}"]
    assert lines[3:5] == ["define void @inner() !dbg !1 {", "  ret void, !dbg !4"]


def test_mending_locations_changes_no_instruction(explored, kernel_of):
    name = kernel_of("graph.take_rows")
    source = "\n".join(unpacked(explored, name)["tvm"]["lines"]) + "\n"
    mended_text = assemble(mended(llvm_of({name: source})))
    assert len(set(re.findall(r"\.loc\s+1 (\d+)", mended_text))) > 3
    assert instructions(mended_text) == instructions(inspect_source(source, "assembly"))


def instructions(assembly):
    """Return the instructions of an assembly text, in order."""
    return [line for line in assembly.splitlines() if re.match(r"^\t[a-z]", line)]


def test_a_run_shows_what_it_launched(explored, kernel_of):
    data = explored.data
    assert data["run"]["rows"] == 3 and data["run"]["errors"] == {}
    assert data["measured"][kernel_of("graph.take_rows")]["launches"] >= 1
    assert set(explored.pictures) == {
        "tree", "lifetimes", "plan", "roofline", "timeline", "memory",
    }  # fmt: skip
    points = {point["kernel"] for point in data["points"]}
    called = {kernel["name"] for kernel in data["kernels"] if kernel["steps"]}
    assert called <= points


def test_the_plan_is_placed_as_its_values_allow():
    compilation = Compilation(FORKED)
    chart = plan_chart(compilation.plan, "judge", TokenPrices(1.0, 0.01), 500)
    assert chart is not None
    tracks = {track.name: track.intervals for track in chart.tracks}
    assert list(tracks) == ["trunk", "sides[0]", "sides[1]", "sides[2]"]
    gens = [
        next(one for one in tracks[f"sides[{branch}]"] if one.kind == "gen") for branch in (0, 1, 2)
    ]
    assert len({one.start for one in gens}) == 1  # side by side
    assert all(one.end - one.start == pytest.approx(5) for one in gens)
    last = next(one for one in tracks["trunk"] if one.name == "gen verdict")
    assert last.start >= max(one.end for one in gens)
    assert last.end - last.start == pytest.approx(7)
    for intervals in tracks.values():
        assert all(a.end <= b.start for a, b in zip(intervals, intervals[1:], strict=False))


def test_what_a_program_says_stays_text(page_file):
    html = page_file.read_text(encoding="utf-8")
    assert "window.planted" in html
    assert re.findall(r"<script[^>]*>", html) == [
        '<script type="application/json" id="data">', '<script type="module">',
    ]  # fmt: skip
    assert "<img" not in html
    outside = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://", outside.split('<script type="application')[0])
    assert json.loads(as_script_data({"a": "</script><!--\u2028"})) == {"a": "</script><!--\u2028"}
    assert "<" not in as_script_data({"a": "</script>"})
    assert filled("a {{x}} b {{y}}", {"x": "{{y}}", "y": "2"}) == "a {{y}} b 2"


@pytest.mark.parametrize(
    ("text", "stages", "line"),
    [
        (SMALL.replace("return answer", "return anwser"), ["ast"], 5),
        (SMALL.replace('"You answer."', '"You answer.'), [], 2),
    ],
)
def test_a_program_that_does_not_compile_keeps_what_it_has(tmp_path, text, stages, line):
    file = tmp_path / "broken.weft"
    file.write_text(text)
    found = explore(Wish(file, "tiny-dense"), load("cpu-generic"))
    assert isinstance(found.error, WeftError)
    assert [stage["id"] for stage in found.data["stages"]] == stages
    assert found.data["problem"]["line"] == line
    assert found.data["source"]["lines"] == text.splitlines()
    assert "broken.weft" in page(found)


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"program": "missing.weft"}, "there is no such file"),
        ({"model": "nobody"}, "no shipped model"),
        ({"name": "other"}, "its programs are: ask"),
    ],
)
def test_what_is_not_there_is_an_error_without_a_page(wish, says):
    with pytest.raises(WeftError, match=says):
        explore(Wish(**{"program": SMALL, "model": "tiny-dense", **wish}), load("cpu-generic"))


@pytest.mark.parametrize("part", [{"assembly": "soup"}, {"assembly": None, "ptx": "soup"}])
def test_a_kernel_that_there_is_not_is_named(part):
    with pytest.raises(UnknownKernel, match="no kernel has 'soup' in its name"):
        explore(Wish(SMALL, "tiny-dense", **part), load("cpu-generic"))


def test_machine_code_is_shown_where_the_cache_is_full(monkeypatch, tmp_path):
    def full(cache):
        raise CacheFull(folder=cache.folder, problem="No space left on device")

    monkeypatch.setattr(KernelCache, "writable", full)
    monkeypatch.setattr(kernel_texts, "locate_assembly", lambda sources: {"k": [["ret", -1]]})
    assert kernel_texts.assembly_of({"k": "text"}, tmp_path) == {"k": [["ret", -1]]}
