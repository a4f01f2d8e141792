"""Folding: IR text in, IR text out; what is known becomes text, what is not stays."""

from textwrap import dedent

import pytest
from weft.ir.parser import parse_module
from weft.passes.manager import run_passes
from weft.passes.program.canonicalize import Canonicalize
from weft.passes.program.dead import DropDead
from weft.passes.program.fold import FoldConstants

HEAD = "program.func name = @f, parameters = [], returns = str { |%s: stream, %x: str, %n: int|"
BOTH = (FoldConstants(), Canonicalize())


def after(body: str, context, steps=BOTH, declared: str = ""):
    text = f"{dedent(declared)}{HEAD}\n{dedent(body).strip()}\n}}\n"
    module, _ = run_passes(steps, parse_module(text), context)
    assert parse_module(str(module)) == module
    return [line.strip() for line in str(module).splitlines() if "name = @f" not in line][:-1]


def remarks(context, done: bool) -> list[str]:
    return [remark.message for remark in context.remarks if remark.done is done]


def test_constants_fold_into_text_and_decided_ifs_go(context):
    body = """
        %one = program.constant value = "a" : str
        %two = program.constant value = "b" : str
        %sum = program.binary %one, %two, op = "+" : str
        %a = program.append %s, %sum : stream
        %yes = program.constant value = true : bool
        %b = program.if %yes {
          %c = program.literal %a, text = "c" : stream
          program.yield %c
        } {
          program.yield %a
        } : stream
        %d = program.literal %b, text = "d" : stream
        program.return
        """
    assert after(body, context) == [
        '%d = program.literal %s, text = "abcd" : stream', "program.return",
    ]  # fmt: skip
    assert remarks(context, True) == ["known now: 'ab'", "this condition is always true"]


def test_templates_come_apart_into_literals_and_values(context):
    body = """
        %one = program.constant value = [1, "b"] : any
        %up = program.method %x, name = "upper" : str
        %t = program.format %one, %up, %n, parts = ["<", 0, "|", 1, 2, ">"] : str
        %end = program.constant value = "." : str
        %u = program.binary %t, %end, op = "+" : str
        %a = program.append %s, %u : stream
        program.return
        """
    assert after(body, context) == [
        '%up = program.method %x, name = "upper" : str',
        '%s_1 = program.literal %s, text = "<[1, \\"b\\"]|" : stream',
        "%s_2 = program.append %s_1, %up : stream",
        "%s_3 = program.append %s_2, %n : stream",
        '%a = program.literal %s_3, text = ">." : stream',
        "program.return",
    ]


def test_parts_of_records_lists_and_results_are_known(context):
    body = """
        %r = program.make_record %x, %n, fields = ["name", "count"] : record<R>
        %l = program.list %r, %r : list<record<R>>
        %minus = program.constant value = -1 : int
        %item = program.index %l, %minus : record<R>
        %name = program.field %item, name = "name" : str
        %result = program.result %name : result<str>
        %failed = program.is_error %result : bool
        %a = program.if %failed {
          %b = program.literal %s, text = "failed" : stream
          program.yield %b
        } {
          %v = program.expect %result : str
          %c = program.append %s, %v : stream
          program.yield %c
        } : stream
        %count = program.builtin %l, name = "len" : int
        program.return %count
        """
    assert after(body, context) == [
        "%c = program.append %s, %x : stream",
        "%count = program.constant value = 2 : int",
        "program.return %count",
    ]


def test_what_would_fail_is_left_to_fail(context):
    body = """
        %zero = program.constant value = 0 : int
        %bad = program.binary %zero, %zero, op = "/" : float
        program.return %bad
        """
    assert '%bad = program.binary %zero, %zero, op = "/" : float' in after(body, context)
    assert remarks(context, False) == ["/ will fail when it runs: division by zero"]


def test_large_values_are_left(context):
    body = """
        %n1 = program.constant value = 1000000 : int
        %many = program.builtin %n1, name = "range" : list<int>
        %text = program.constant value = "a" : str
        %long = program.binary %text, %n1, op = "*" : str
        %r = program.list %many, %long : list<any>
        program.return %r
        """
    assert len(after(body, context)) == 6


def test_text_after_a_return_goes(context):
    body = """
        %yes = program.constant value = true : bool
        %a = program.if %yes {
          program.return %x
        } {
          %b = program.literal %s, text = "b" : stream
          program.yield %b
        } : stream
        %c, %v = program.gen %a, name = "v", type = str, max_tokens = 4 : stream, str
        program.return %v
        """
    assert after(body, context) == ["program.return %x"]
    assert "what follows is never reached" in remarks(context, True)


LOOP = """
    %l = program.constant value = ["a", "b"] : list<str>
    %z = program.constant value = 0 : int
    %t, %k = program.for %l, %s, %z {{ |%e: str, %u: stream, %i: int|
      %one = program.constant value = 1 : int
      %j = program.binary %i, %one, op = "+" : int
      %p = program.append %u, %j : stream
      %q = program.append %p, %e : stream
      {inside}
      program.yield %w, %j
    }} : stream, int
    program.return %k
    """
GEN = '%w, %v = program.gen %q, name = "v", type = str, max_tokens = 4 : stream, str'


def test_a_short_loop_is_unrolled(context):
    assert after(LOOP.format(inside=GEN), context) == [
        '%q_1 = program.literal %s, text = "1a" : stream',
        '%w_1, %v_1 = program.gen %q_1, name = "v", type = str, max_tokens = 4 : stream, str',
        "%j_2 = program.constant value = 2 : int",
        '%q_2 = program.literal %w_1, text = "2b" : stream',
        '%w_2, %v_2 = program.gen %q_2, name = "v", type = str, max_tokens = 4 : stream, str',
        "program.return %j_2",
    ]
    assert "this loop of 2 rounds is unrolled" in remarks(context, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"rounds": 1}, "more than 1 rounds"), ({"operations": 11}, "12 operations, more than 11")],
)
def test_a_long_loop_stays(context, options, reason):
    found = after(LOOP.format(inside=GEN), context, (FoldConstants(**options), Canonicalize()))
    assert any("program.for" in line for line in found)
    assert [reason in message for message in remarks(context, False)] == [True]


def test_a_round_that_returns_is_the_last(context):
    inside = """%f = program.constant value = "b" : str
      %is = program.binary %e, %f, op = "==" : bool
      %w = program.if %is {
        program.return %e
      } {
        program.yield %q
      } : stream"""
    found = after(LOOP.format(inside=inside), context)
    assert found == [
        '%e_2 = program.constant value = "b" : str',
        '%q_2 = program.literal %s, text = "1a2b" : stream',
        "program.return %e_2",
    ]


def test_a_loop_over_nothing_or_that_never_starts_goes(context):
    body = """
        %l = program.constant value = [] : list<str>
        %t = program.for %l, %s { |%e: str, %u: stream|
          %q = program.append %u, %e : stream
          program.yield %q
        } : stream
        %z = program.constant value = 3 : int
        %t2, %z2 = program.while %t, %z, limit = 5 { |%u2: stream, %i: int|
          %three = program.constant value = 3 : int
          %less = program.binary %i, %three, op = "<" : bool
          program.condition %less
        } { |%u3: stream, %i2: int|
          %q2 = program.append %u3, %i2 : stream
          program.yield %q2, %i2
        } : stream, int
        %a = program.append %t2, %x : stream
        program.return %z2
        """
    assert after(body, context)[1] == "%a = program.append %s, %x : stream"
    assert "this loop never runs" in remarks(context, True)


def test_a_while_that_may_run_stays(context):
    body = """
        %z = program.constant value = 3 : int
        %z2 = program.while %z, limit = 5 { |%i: int|
          %less = program.binary %i, %n, op = "<" : bool
          program.condition %less
        } { |%i2: int|
          %one = program.constant value = 1 : int
          %next = program.binary %i2, %one, op = "+" : int
          program.yield %next
        } : int
        program.return %z2
        """
    assert any("program.while" in line for line in after(body, context))


def test_an_inlined_program_that_only_its_end_leaves_is_in_place(context):
    body = """
        %a, %v = program.inline %s, name = @g { |%t: stream|
          %yes = program.constant value = true : bool
          program.if %yes {
            %u = program.literal %t, text = "u" : stream
            program.leave %u, %x
          } {
            program.yield
          }
          %w = program.literal %t, text = "w" : stream
          program.leave %w, %x
        } : stream, str
        %b = program.literal %a, text = "b" : stream
        program.return %v
        """
    assert after(body, context) == [
        '%b = program.literal %s, text = "ub" : stream', "program.return %x",
    ]  # fmt: skip


TOOL = "program.tool name = @shout, parameters = [], returns = str, pure = true\n"
CALL = """
    %a = program.constant value = "a" : str
    %v = program.call_tool %a, name = @shout : str
    %b = program.append %s, %v : stream
    program.return
    """


def test_a_pure_tool_of_constants_is_called_once(context):
    calls = []
    context.validate = None  # it calls the tool too, for the module before
    context.pure_tools = {"shout": lambda text: calls.append(text) or text.upper()}
    twice = CALL.replace(
        "program.return",
        "%v2 = program.call_tool %a, name = @shout : str\n    program.return %v2",
    )
    found = after(twice, context, declared=TOOL)
    assert '%b = program.literal %s, text = "A" : stream' in found and calls == ["a"]
    assert "shout was called: it gives 'A'" in remarks(context, True)


def test_a_pure_tool_that_fails_or_has_no_function_stays(context):
    assert any("call_tool" in line for line in after(CALL, context, declared=TOOL))

    def fails(text):
        raise ValueError("no voice")

    context.pure_tools = {"shout": fails}
    assert any("call_tool" in line for line in after(CALL, context, declared=TOOL))
    assert remarks(context, False) == ["shout will be called at run time: no voice"]


def test_a_tool_with_effects_is_not_called(context):
    context.pure_tools = {"shout": str.upper}
    found = after(CALL, context, declared=TOOL.replace(", pure = true", ""))
    assert any("call_tool" in line for line in found)


OTHERS = """
    program.tool name = @look, parameters = [], returns = str
    program.tool name = @shout, parameters = [], returns = str, pure = true
    program.func name = @quiet, parameters = [], returns = str { |%s1: stream|
      %g, %h = program.gen %s1, name = "h", type = str, max_tokens = 4 : stream, str
      program.return %h
    }
    program.func name = @loud, parameters = [], returns = str { |%s2: stream|
      %o = program.call_tool name = @look : str
      program.return %o
    }
    """


def dead(body: str, context) -> list[str]:
    found = after(body, context, (DropDead(),), OTHERS)
    return found[found.index("program.return %o") + 2 :]


def test_unused_calls_go_unless_they_have_effects(context):
    body = """
        %a = program.call name = @quiet : str
        %b = program.call name = @loud : str
        %c = program.call_tool name = @shout : str
        %d = program.call_tool name = @look : str
        program.return
        """
    assert dead(body, context) == [
        "%b = program.call name = @loud : str",
        "%d = program.call_tool name = @look : str",
        "program.return",
    ]
    assert remarks(context, True) == ["call quiet is gone: nothing uses its value"]
    assert remarks(context, False) == ["call loud: nothing uses its value, but it may call a tool"]


def test_a_call_whose_namesake_draws_samples_stays(context):
    body = """
        %a = program.call name = @quiet : str
        %b = program.call name = @quiet : str
        program.return %b
        """
    assert len(dead(body, context)) == 3
    assert "the samples of its namesakes are counted from it" in remarks(context, False)[0]


def test_scores_and_inner_forks_go_only_where_they_end_no_token(context):
    body = """
        %two = program.constant value = 2 : int
        %l = program.literal %s, text = "a" : stream
        %out = program.fork %l, %two, name = "out" { |%t: stream, %i: int|
          %in = program.fork %t, %two, name = "in" { |%u: stream, %j: int|
            %g, %h = program.gen %u, name = "h", type = str, max_tokens = 4 : stream, str
            program.yield %h
          } : list<str>
          program.yield %i
        } : list<int>
        %p = program.score %l, %x : float
        %m = program.append %l, %x : stream
        %q = program.score %m, %x : float
        program.return
        """
    found = dead(body, context)
    assert [line.split()[0] for line in found if "fork" in line or "score" in line] == [
        "%out", "%p",
    ]  # fmt: skip
    assert "fork out: nothing uses its value, but the run's result names it" in remarks(
        context, False
    )
    assert "score: nothing uses its value, but it ends a token of the text before it" in remarks(
        context, False
    )


def test_programs_that_the_entry_does_not_run_go(context):
    context.entry = "f"
    text = (
        dedent(OTHERS) + f"{HEAD}\n  %b = program.call name = @loud : str\n  program.return\n}}\n"
    )
    module, _ = run_passes((DropDead(),), parse_module(text), context)
    assert [op["name"].name for op in module.operations] == ["look", "loud", "f"]
    context.entry = None
    module, _ = run_passes((DropDead(),), parse_module(text), context)
    assert len(module.operations) == 5
