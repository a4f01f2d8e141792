"""compile-constraints: tables named in the plan, openings in the prompt, reasons, the store."""

import errno

import pytest
from weft.codegen.table_cache import TableCache
from weft.compiler import Compilation
from weft.ir.constraints import tables as constraint_tables
from weft.options import Options

PROGRAM = """
record Order:
    customer: str(max_tokens=8)
    count: int(1..20)

program take(text: str) -> int:
    user "Order: {text}"
    assistant:
        "JSON: "
        gen order: Order
        "\\nSure? "
        gen sure: choice["yes", "no"]
        gen stopped(stop=","): regex "(?:one|two)(?:, [a-z]+)?"
        gen look: regex "(?=a)a"
        gen tight(max_tokens=2): Order
    return order.count
"""


@pytest.fixture
def compiled(tmp_path):
    def run() -> Compilation:
        constraint_tables._known.clear()
        compilation = Compilation(PROGRAM, options=Options(cache=tmp_path))
        _ = compilation.plan
        return compilation

    return run


def remarks(compilation, done: bool) -> list[str]:
    record = next(r for r in compilation.records if r.name == "compile-constraints")
    return [remark.message for remark in record.remarks if remark.done == done]


def test_the_plan_names_tables_and_forced_text(compiled):
    plan = compiled().plan
    constraints = [op for op in plan.operations if op.name == "plan.constraint"]
    assert [bool(op.attribute("table")) for op in constraints] == [True, True, True, False]
    assert all(op["states"] > 2 and op["bytes"] > 100 for op in constraints[:3])
    order, sure, *_ = [op for op in plan.walk() if op.name == "plan.decode"]
    assert order["forced"] == '{"customer":' and order.attribute("heal") is None
    assert order["max_tokens"] == order_budget() - 3
    assert sure.attribute("forced") is None and sure["heal"] == " "


def order_budget() -> int:
    lowered = Compilation(PROGRAM, None).lowered
    return next(op for op in lowered.walk() if op.name == "program.gen")["max_tokens"]


def test_the_opening_is_encoded_with_the_text_before_it(compiled):
    compilation = compiled()
    tokenizer = compilation.checkpoint.tokenizer
    segment = next(
        op for op in compilation.plan.walk()
        if op.name == "plan.tokens" and op["text"].endswith('JSON: {"customer":')
    )  # fmt: skip
    assert tuple(segment["ids"][-5:]) == tuple(tokenizer.encode('JSON: {"customer":')[-5:])


def test_remarks_say_what_was_compiled_and_what_was_not(compiled):
    compilation = compiled()
    did, left = remarks(compilation, True), remarks(compilation, False)
    assert "gen order: an automaton of " in did[0]
    assert "its first 3 tokens '{\"customer\":' are prompt" in did[0]
    assert left[0].startswith("gen look: no table, llguidance masks it at run time: it has assert")
    assert "max_tokens=2 cannot hold its shortest text, of " in left[1]
    said = compilation.explain()
    assert "gen order: an automaton of" in said and "changed nothing\n  did" not in said


def test_what_stops_keeps_its_opening(compiled):
    decodes = [op for op in compiled().plan.walk() if op.name == "plan.decode"]
    assert decodes[2].attribute("forced") is None and decodes[2]["stop"] == ","


def test_a_second_compilation_compiles_nothing(compiled):
    first, second = compiled(), compiled()
    assert (first.context.tables.compiled, second.context.tables.compiled) == (4, 0)
    assert second.plan == first.plan


def test_a_damaged_file_is_made_anew(compiled, tmp_path):
    plan = compiled().plan
    path = next(p for p in tmp_path.glob("*.table") if p.stat().st_size > 5000)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert TableCache(tmp_path).find(path.stem) is None
    again = compiled()
    assert again.context.tables.compiled == 1 and again.plan == plan


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = TableCache(blocked)
    cache.put("key", b"data")
    assert cache.find("key") is None


def test_a_full_disk_keeps_nothing_and_ends_no_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("weft.codegen.cache.os.replace", full)
    cache = TableCache(tmp_path)
    cache.put("key", b"data")
    assert cache.find("key") is None
