"""What is freed on one side of an if alone is found, though the side that keeps it is read last."""

from weft.ir.parser import parse_module
from weft.passes.validation.kv import freed_once

PLAN = """
plan.func name = @f, parameters = [], returns = str {{ |%kv: kv, %c: bool|
  plan.if %c {{
    {one}plan.yield
  }} {{
    {other}plan.yield
  }}
  plan.free %kv
  plan.return
}}
"""


def problems(one, other):
    before, after = (
        parse_module(PLAN.format(one=first, other=second))
        for first, second in (("", ""), (one, other))
    )
    return list(freed_once(before, after, None))


def test_one_side_of_an_if_may_not_free_alone():
    free = "plan.free %kv\n    "
    found = "f: only one side of an if moves or frees %kv"
    assert problems("", "") == []
    assert problems("", free) == [found]
    assert found in problems(free, "")
