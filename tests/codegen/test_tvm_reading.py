"""Our reader of TVMScript builds what TVM's parser builds, and leaves other text to it."""

from __future__ import annotations

import re

import pytest
import tvm
import tvm.script
from weft.codegen import build
from weft.codegen.tvm.emit import emit_tvm
from weft.codegen.tvm.macros import macros
from weft.codegen.tvm.read import OtherText, read_module
from weft.ir.schedule import Schedule
from weft.tests.codegen.kernel_cases import make

SOME = ("embedding_i8", "rope_parts", "route", "combine_residual")
"""Families whose texts have all forms that the emitter writes."""


def text_of(family: str) -> str:
    return emit_tvm(make(family, "few").kernel, Schedule())


@pytest.mark.parametrize("family", SOME)
def test_it_is_what_tvm_reads(family: str) -> None:
    text = build.module_text([text_of(family)])
    parsed = tvm.script.from_source(text, extra_vars=macros())
    tvm.ir.assert_structural_equal(read_module(text), parsed)
    assert read_module(text).script() == parsed.script()
    other = text.replace("T.serial(", "T.serial(1 + ", 1)
    with pytest.raises(ValueError):
        tvm.ir.assert_structural_equal(read_module(other), parsed)


def test_machine_code_has_the_lines_that_it_has_when_tvm_reads():
    text = build.module_text([text_of("embedding_i8")])

    def lines(module) -> list[str]:
        compiled = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
        return re.findall(r"DILocation\(line: (\d+)", compiled.mod.inspect_source("ll"))

    found = lines(tvm.script.from_source(text, extra_vars=macros()))
    assert lines(read_module(text, places=True)) == found and len(set(found)) > 5
    assert set(lines(read_module(text))) == {"0"}, "places cost time, and only explore reads them"


BODIES = {
    "a loop that waits": "while x[0] < 1:\n            x[0] = 2",
    "a name that is bound twice": "for i in T.serial(2):\n            x[i] = 0\n"
    "        for i in T.serial(3):\n            x[i] = 1",
    "a chain of comparisons": "x[0] = T.Select(0 < x[1] < 3, 1, 2)",
    "a word between conditions": "x[0] = T.Select(x[1] > 0 and x[2] > 0, 1, 2)",
    "a known condition": "if 1 < 2:\n            x[0] = 1",
    "a buffer in one name's place": "y = x[0] + 1\n        x[1] = y",
}


@pytest.mark.parametrize("kind", BODIES)
def test_other_text_is_left_to_tvm(kind: str) -> None:
    text = (
        "@I.ir_module\nclass Weft:\n    @T.prim_func(s_tir=True)\n    def f(x_h: T.handle):\n"
        '        x = T.match_buffer(x_h, (4,), "int32")\n        ' + BODIES[kind] + "\n"
    )
    with pytest.raises(OtherText):
        read_module(text)
    parsed = tvm.script.from_source(text, extra_vars=macros())
    tvm.ir.assert_structural_equal(build._read(text, places=False), parsed)
