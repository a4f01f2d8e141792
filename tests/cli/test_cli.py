"""The command line, in process and as a user starts it: results, dumps, and errors that help."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner
from weft import __version__
from weft.cli.app import app
from weft.cli.errors import with_lines
from weft.cli.rows import RowsFailed, read_rows
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.diagnostics import WeftError
from weft.ir.parser import parse_module
from weft.passes.pipeline import LOWERING, PLAN_PASSES

HELLO = """
record Mood:
    kind: choice["calm", "glad"]
    level: int(1..9)

program hello(name: str, times: int = 2) -> list[str]:
    user "Say hello to {name}."
    fork times as greetings:
        assistant gen greeting(max_tokens=4)
        yield greeting
    assistant gen mood: Mood
    return greetings
"""


@pytest.fixture
def hello(tmp_path):
    file = tmp_path / "hello.weft"
    file.write_text(HELLO)
    return file


def weft(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, WeftError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_prints_the_result_and_the_numbers(hello):
    printed = weft("run", hello, "--arg", "name=Ada", "--json")
    answer = json.loads(printed.strip().splitlines()[-1])
    assert len(answer["value"]) == 2
    stats = answer["stats"]
    assert stats["prefix_hits_predicted"] == stats["prefix_hits_measured"] > 0


def test_a_seed_decides_what_is_drawn(tmp_path):
    file = tmp_path / "drawn.weft"
    file.write_text(
        'program drawn() -> str:\n    "Say:"\n    gen said(max_tokens=9, temperature=1.0)\n'
        "    return said\n"
    )
    said = [weft("run", file, "--seed", seed, "-q") for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_a_trace_is_written_and_a_place_for_it_is_needed(hello, tmp_path):
    trace = tmp_path / "trace.json"
    weft("run", hello, "--arg", "name=Ada", "-q", "--trace", trace)
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(
        event.get("args", {}).get("computes") == "graph.take_rows" for event in events
    )  # a kernel, on the device


def test_explore_writes_one_page_also_of_a_program_that_fails(hello, tmp_path):
    printed = weft("explore", hello, "--out", tmp_path / "a" / "b", "--assembly", "none")
    assert (tmp_path / "a" / "b" / "index.html").read_text().startswith("<!doctype html>")
    assert printed.strip().endswith("index.html")
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["index.html"]
    hello.write_text(HELLO.replace("return greetings", "return greeting"))
    with pytest.raises(WeftError, match="greeting"):
        weft("explore", hello, "--out", tmp_path / "failed")
    assert "is not bound here" in (tmp_path / "failed" / "index.html").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(WeftError, match="the page cannot be written"):
        weft("explore", hello, "--out", tmp_path / "file" / "report")


def test_rows_are_written_in_order_and_resumed(hello, tmp_path):
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"name": name}) + "\n" for name in "abc"))
    weft("run", hello, "--rows", rows, "--out", out, "--json")
    first = out.read_text()
    assert len(first.splitlines()) == 3
    again = json.loads(weft("run", hello, "--rows", rows, "--out", out, "--json").splitlines()[-1])
    assert out.read_text() == first and again["rows"] == 3


WAITS_FOR_TWO = """
import pathlib, time

def f(x):
    while x == "c" and pathlib.Path({journal!r}).read_text().count("\\n") < 2:
        time.sleep(0.01)
    return {{"a": "A", "b": "B"}}[x]
"""


def test_a_resumed_run_counts_each_row_once(tmp_path):
    file, rows, out = (tmp_path / name for name in ("r.weft", "in.jsonl", "out.jsonl"))
    file.write_text(
        "tool f(x: str) -> str timeout 200\n"
        "program p(x: str) -> str:\n    let y = f(x)\n    return y\n"
    )
    rows.write_text("".join(json.dumps({"x": name}) + "\n" for name in "abc"))
    tools = tmp_path / "r_tools.py"
    tools.write_text(WAITS_FOR_TWO.format(journal=f"{out}.journal"))
    with pytest.raises(WeftError, match="KeyError"):
        weft("run", file, "--rows", rows, "--out", out, "-q")
    tools.write_text("def f(x):\n    return x\n")
    result = CliRunner().invoke(app, ["run", str(file), "--rows", str(rows), "--out", str(out)])
    assert "2 rows were done before" in result.stderr and " 3/3 " in result.stderr


@pytest.mark.parametrize("stage", ["program", "plan", "graph", "tile"])
def test_a_dumped_stage_parses_back(hello, stage):
    text = weft("dump", hello, "--stage", stage)
    assert str(parse_module(text)) == text


@pytest.mark.parametrize(
    ("stage", "form", "holds"),
    [
        ("ast", "", "Fork"),
        ("source", "tvm", "@T.prim_func"),
        ("source", "triton", "@triton.jit"),
        ("binary", "assembly", ".globl"),
        ("binary", "ptx", ".visible .entry"),
    ],
)
def test_every_stage_can_be_read(hello, stage, form, holds):
    kernel = ["--kernel", "take_rows_256_many"] if form else []
    assert holds in weft("dump", hello, "--stage", stage, "--form", form, *kernel)


def test_dump_shows_what_a_pass_changed(hello):
    diff = weft("dump", hello, "--after", "prefix-sharing", "--diff")
    assert "+" in diff and "prefix = {tokens" in diff


def test_dump_after_a_pass_is_of_the_stage_that_is_asked_for(hello):
    for stage in ("graph", "tile"):
        left = weft("dump", hello, "--after", "lower-to-tiles", "--stage", stage)
        assert "tile.kernel" in left and "graph.func" in left
    assert weft("dump", hello, "--after", "free-kv") == weft(
        "dump", hello, "--after", "free-kv", "-s", "plan"
    )


def test_opt_enters_at_any_stage(hello, tmp_path):
    program = tmp_path / "program.ir"
    program.write_text(weft("dump", hello, "--stage", "program"))
    passes = ",".join(step.name for step in (*LOWERING, *PLAN_PASSES))
    plan = weft("opt", program, "--passes", passes, "--model", "tiny-dense")
    assert plan == weft("dump", hello, "--stage", "plan")


def test_opt_lowers_a_model_from_its_text(tmp_path):
    graph = tmp_path / "graph.ir"
    graph.write_text(str(open_checkpoint("tiny-dense").graph))
    names = "fuse-sibling-matmuls,drop-concat-of-split,fuse-rope-write,lower-to-tiles,plan-memory"
    lowered = parse_module(weft("opt", graph, "--passes", names))
    kinds = {operation.name for operation in lowered.operations}
    assert kinds == {"tile.kernel", "graph.func"}
    assert lowered.symbol("step")["memory"]["bytes"] > 0


def test_rows_show_what_they_share_before_they_run(hello, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"name": "Ada"}\n{"name": "Bo"}\n')
    told = weft("explain", hello, "--no-measure", "--rows", rows)
    assert "prefixes of" in told and ", 2 rows:" in told and "not shared further: " in told
    tree = weft("dump", hello, "-s", "prefixes", "--rows", rows)
    assert tree.startswith("prefix.tree program = @") and "rows = 2" in tree
    assert "rows = 1" in weft("dump", hello, "-s", "prefixes").splitlines()[0]
    rows.write_text('{"nam": "Ann"}\n')
    for command in (["dump", hello, "-s", "prefixes"], ["explain", hello, "--no-measure"]):
        with pytest.raises(WeftError, match="row 0: there is no parameter for the field 'nam'"):
            weft(*command, "--rows", rows)


def test_the_version_is_told():
    assert weft("--version") == f"weft {version('weft')}\n" == f"weft {__version__}\n"


def test_models_lists_the_zoo():
    assert "tiny-dense" in weft("models") and "tiny-moe" in weft("models")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "missing.weft"], "there is no such file"),
        (["run", "{hello}", "--model", "nobody"], "no shipped model"),
        (["run", "{hello}", "--arg", "name"], "--arg name: there is no ="),
        (["run", "{hello}", "--arg", "=Ada"], "--arg =Ada: there is no name before the ="),
        (["run", "{hello}"], "name"),
        (["run", "{hello}", "--arg", "nam=x"], "nam"),
        (["run", "{hello}", "--rows", "missing.jsonl"], "missing.jsonl"),
        (["run", "{hello}", "--arg", "name=x", "--out", "o.jsonl"], "there are no --rows"),
        (["run", "{hello}", "--arg", "name=x", "--keep-going"], "--keep-going .* are no --rows"),
        (["run", "{hello}", "--arg", "name=x", "--arg", "name=y"], "name is given twice"),
        (["run", "{hello}", "--arg", "name=x", "--arg", "times=two"], "'two' is str, not int"),
        (["run", "{hello}", "--rows", "{hello}", "--out", "{hello}"], "would take its place"),
        (["run", "{hello}", "--arg", "name=@/"], "Is a directory"),
        (["run", "{hello}", "--program", "other"], "its programs are: hello"),
        (["run", "{hello}", "--arg", "name=x", "--threads", "-1"], "threads are from 1 to 1024"),
        (["run", "{hello}", "--arg", "name=x", "--threads", "100000"], "not 100000"),
        (["dump", "{hello}", "--stage", "soup"], "there are: ast, program"),
        (["dump", "{hello}", "--after", "soup"], "no pass 'soup' ran"),
        (["opt", "{hello}"], "this is no IR text"),
        (["opt"], "there is no IR text"),
        (["opt", "/dev/null"], "there is no IR text.*: /dev/null holds no operation"),
        (["dump", "{hello}", "--diff"], "--after PASS"),
        (["dump", "{hello}", "--kernel", "matmul"], "not program"),
        (["dump", "{hello}", "--rows", "none.jsonl"], "is for prefixes, not program"),
        (["dump", "{hello}", "--form", "svg"], "is for prefixes, source, binary, not program"),
        (["dump", "{hello}", "--after", "soup", "--kernel", "m"], r"not a pass \(--after"),
        (["dump", "{hello}", "--after", "drop-dead", "-s", "plan"], "IR of program, none of plan"),
        (["run", "{hello}", "--arg", "name=x", "--kv-memory", "1"], "KiB, and 1 B are theirs"),
        (["run", "{hello}", "--arg", "name=x", "--kv-memory", "-1GiB"], "'-1GiB' is below nothing"),
        (["run", "{hello}", "--offload-policy", "{hello}"], r"hello.weft: line 2: a policy starts"),
        (["run", "{hello}", "--tools", "{hello}"], "hello.weft: it is no Python file"),
        (["tune", "tiny-moe", "--gpu-memory", "-5GiB"], "'-5GiB' is below nothing"),
        (["tune", "tiny-moe", "--gpu-memory", "1KiB"], "1.0 KiB is [0-9.]* MiB too small"),
        (["explain", "{hello}", "--batch", "0"], r"\(--batch\) are from 1 to 4096, not 0"),
        (["explain", "{hello}", "--batch", "-1"], "not -1"),
        (["kernels", "--batch", "100000"], "not 100000"),
        (["kernels", "--context", "0"], r"\(--context\) are from 1 to 8192, not 0"),
        (["kernels", "--context", "1000000"], "not 1000000"),
        (["kernels", "--prefill", "-1"], r"\(--prefill\) are from 1 to 8192, not -1"),
        (["kernels", "--prefill", "100000"], "from 1 to 8192, not 100000"),
        (["kernels", "--prefill", "100000000"], "from 1 to 8192, not 100000000"),
    ],
)
def test_mistakes_are_named(hello, arguments, says):
    with pytest.raises(WeftError, match=says):
        weft(*(argument.format(hello=hello) for argument in arguments))


def test_an_argument_stands_for_what_rows_leave_out(hello, tmp_path):
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"name": "Ada"}\n{"name": "Bob", "times": 1}\n')
    weft("run", hello, "--rows", rows, "--arg", "times=3", "--out", out, "--quiet")
    assert [len(json.loads(line)["value"]) for line in out.read_text().splitlines()] == [3, 1]


def test_a_file_without_rows_is_no_error_and_the_user_is_told(hello, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text("\n")
    told = "the file of --rows has no rows: nothing is run\n"
    result = CliRunner().invoke(app, ["run", str(hello), "--rows", str(rows), "--arg", "name=x"])
    assert result.exit_code == 0 and told in result.stderr and told not in result.stdout


def test_a_row_wins_over_an_argument_and_the_user_is_told(hello, tmp_path):
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"name": "Ada"}\n{"name": "Bob", "times": 1}\n')
    told = "rows win over --arg where they have the field: times (1 of 2 rows)\n"
    command = ["run", str(hello), "--rows", str(rows), "--arg", "times=1", "--json"]
    assert told in CliRunner().invoke(app, command).stderr
    assert told not in CliRunner().invoke(app, [*command, "-q"]).stderr
    rows.write_text('{"name": "Ada"}\n')
    assert "rows win" not in CliRunner().invoke(app, command).stderr


def test_rows_that_fail_are_told_while_others_go_on(tmp_path):
    file, rows, out = (tmp_path / name for name in ("r.weft", "in.jsonl", "out.jsonl"))
    file.write_text("program p(x: int) -> int:\n    let y = 6 // x\n    return y\n")
    rows.write_text("\n".join(f'{{"x": {x}}}\n' for x in (1, 0, 3, 0)))
    command = ["run", str(file), "--rows", str(rows), "--json", "--keep-going"]
    result = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert result.exit_code == 1 and isinstance(result.exception, RowsFailed)
    told = str(result.exception)
    assert "2 of 4 rows failed, the first" in told and "r.weft:2:13: run error: row 1: div" in told
    assert f"{rows}:3:1: note: row 1 stands here" in told
    assert "again runs these rows alone" in result.exception.hint_text
    assert json.loads(result.stdout)["failed"] == 2
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line.get("value") for line in lines] == [6, None, 2, None]
    assert ["division by zero" in line.get("error", "") for line in lines] == [0, 1, 0, 1]
    plain = CliRunner().invoke(app, [*command[:4], "-q", "--keep-going"])
    assert plain.stdout == "6\nnull\n2\nnull\n"
    with pytest.raises(WeftError, match=r"row 1: division by zero[\s\S]*in.jsonl:3:1: note"):
        weft(*command[:-1], "--out", out)
    rows.write_text('\n{"x": "a"}\n')
    with pytest.raises(WeftError, match=r"row 0: the field 'x'[\s\S]*in.jsonl:2:1: note"):
        weft(*command[:-1])


def test_an_argument_is_text_where_the_parameter_is(hello):
    answer = json.loads(weft("run", hello, "--arg", "name=42", "--arg", "times=1", "--json"))
    assert len(answer["value"]) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("[" * 100_000, ":2: .*nested too deeply"),
        ('{"name": ' + "9" * 5000 + "}", ":2: .*digits"),
        ('{"name": "a", "name": "b"}', ":2: the key 'name' stands twice in one object"),
    ],
)
def test_rows_are_read_before_a_model_is(hello, tmp_path, monkeypatch, row, says):
    monkeypatch.setattr("weft.cli.run._compile", lambda *given: pytest.fail("it compiled"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"name": "a"}\n' + row + "\n")
    with pytest.raises(WeftError, match=says):
        weft("run", hello, "--rows", rows)


def test_a_row_may_hold_any_separator_of_lines(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"name": "a\u2028b\x85c"}\r\n\n{"name": "d"}', encoding="utf-8")
    assert [row["name"] for row in read_rows(rows)] == ["a\u2028b\x85c", "d"]


def test_passes_are_listed_without_a_file():
    assert "canonicalize" in weft("opt", "--list")


def test_an_error_of_the_run_shows_its_line(tmp_path):
    (tmp_path / "t.weft").write_text(
        "tool f(x: int) -> int\nprogram p() -> int:\n    let y = f(1)\n    return y\n"
    )
    (tmp_path / "t_tools.py").write_text("def f(x):\n    return 1 / 0\n")
    with pytest.raises(WeftError) as caught:
        weft("run", tmp_path / "t.weft")
    shown = with_lines(caught.value).render()
    assert "let y = f(1)" in shown and "^^^^" in shown and "ZeroDivisionError" in shown


def test_a_user_sees_no_traceback(tmp_path):
    broken = tmp_path / "broken.weft"
    broken.write_text("program p():\n    gen x(max_tokens=)\n")
    done = subprocess.run(
        [sys.executable, "-m", "weft", "run", str(broken)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{broken}:2:" in done.stderr and "^" in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['weft', '--help']\n"
        "import weft.__main__ as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'tvm', 'triton', 'lark', 'z3', 'numpy', 'tokenizers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_tree_of_the_syntax_needs_no_pass(hello):
    code = (
        f"import sys; sys.argv = ['weft', 'dump', {str(hello)!r}, '--stage', 'ast']\n"
        "import weft.__main__ as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('weft.passes', 'numpy') if name in sys.modules])\n"
    )
    run = [sys.executable, "-c", code]
    shown = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert shown.endswith("[]\n") and weft("dump", hello, "--stage", "ast") in shown
