"""Passes over programs and plans: IR text in, IR text out."""

from dataclasses import replace
from textwrap import dedent

import pytest
from weft.ir.core import Value
from weft.ir.parser import parse_module
from weft.ir.types import KV
from weft.passes.manager import Context, run_passes
from weft.passes.program.canonicalize import Canonicalize
from weft.passes.program.memory.lifetimes import KVLifetimes
from weft.passes.program.memory.liveness import FreeKV
from weft.passes.program.plans.lower import LowerToPlan, NoVocabulary
from weft.passes.program.plans.segments import StreamState
from weft.passes.program.prefixes.sharing import PrefixSharing

HEAD = "program.func name = @f, parameters = [], returns = str { |%s: stream, %x: str|"


def function(body: str) -> str:
    return HEAD + "\n" + dedent(body).strip("\n") + "\n}\n"


def after(step, text, context, facts=frozenset({"canonical", "planned"})):
    module, records = run_passes((step,), parse_module(text), context, facts)
    assert parse_module(str(module)) == module
    return str(module), records[0]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()][1:-1]


def test_adjacent_literals_join(context):
    text, record = after(
        Canonicalize(),
        function(
            """
            %a = program.literal %s, text = "one " : stream
            %b = program.literal %a, text = "two" : stream
            program.return
            """
        ),
        context,
    )
    assert lines(text) == ['%b = program.literal %s, text = "one two" : stream', "program.return"]
    assert record.counts() == {"program.literal": -1}
    assert '-  %a = program.literal %s, text = "one " : stream' in record.diff()


def test_a_literal_that_a_fork_also_reads_does_not_join(context):
    body = """
        %n = program.constant value = 2 : int
        %a = program.literal %s, text = "one" : stream
        %r = program.fork %a, %n, name = "r" { |%t: stream, %i: int|
          program.yield %i
        } : list<int>
        %b = program.literal %a, text = "two" : stream
        program.return
        """
    text, record = after(Canonicalize(), function(body), context)
    assert not record.changed and text.count("program.literal") == 2


def test_tool_calls_are_never_dropped(context):
    body = """
        %t = program.call_tool name = @clock : str
        program.return
        """
    text, record = after(Canonicalize(), function(body), context)
    assert not record.changed


FORK = """
    %a = program.begin %s, role = "user" : stream
    %b = program.literal %a, text = "xyz" : stream
    %c = program.append %b, %x : stream
    %d = program.end %c, role = "user" : stream
    %n = program.constant value = 3 : int
    %r = program.fork %d, %n, name = "r" { |%t: stream, %i: int|
      %u, %v = program.gen %t, name = "v", type = str, max_tokens = 4 : stream, str
      program.yield %v
    } : list<str>
    program.return
    """


def test_a_fork_says_what_it_shares(context):
    text, record = after(PrefixSharing(), function(FORK), context)
    assert 'prefix = {tokens = 6, values = ["x"], width = 3}' in text  # <1><4> x y z <2>
    assert "6 known tokens + {x} computed once, read by 3 branches" in record.remarks[0].message


def test_rows_share_only_tokens_that_no_value_can_change(context):
    text, _ = after(PrefixSharing(), function(FORK), context)
    assert text.splitlines()[0].endswith("prefix = {tokens = 2} { |%s: stream, %x: str|")


def test_known_text_becomes_tokens_and_values_wait(context):
    text, _ = after(LowerToPlan(), function(FORK), context)
    assert lines(text)[1:6] == [
        '%known = plan.tokens ids = [1, 4], text = "<1><4>" : tokens',
        '%x_text = plan.tokenize %x, parts = ["xyz", {value = 0}] : tokens',
        '%known_1 = plan.tokens ids = [2], text = "<2>" : tokens',
        "%kv_1 = plan.extend %kv, %known, %x_text, %known_1 : kv",
        '%r = plan.fork %kv_1, %n, name = "r" { |%kv_2: kv, %i: int|',
    ]


BEFORE_GEN = "%u, %v = program.gen %t"


@pytest.mark.parametrize(
    ("width", "text", "shared"), [(3, "q", True), (1, "q", False), (3, " ", False)]
)
def test_a_prefix_is_shared_where_two_branches_surely_read_on(context, width, text, shared):
    branch = f'%q = program.literal %t, text = "{text}" : stream\n%u, %v = program.gen %q'
    body = FORK.replace(BEFORE_GEN, branch).replace("value = 3", f"value = {width}")
    found, record = after(LowerToPlan(), function(body), context)
    assert ("shared = true" in found) == shared
    assert shared or any("fork r" in remark.message for remark in record.remarks)


def test_a_prefix_is_not_shared_where_a_branch_may_never_read_it(context):
    branch = """%q = program.literal %t, text = "q" : stream
      %c = program.binary %i, %i, op = "<" : bool
      program.if %c {
        %g, %v = program.gen %q, name = "v", type = str, max_tokens = 4 : stream, str
        program.yield
      } {
        program.yield
      }
      program.yield %i"""
    start = FORK.index("%u, %v")
    body = FORK[:start] + branch + FORK[FORK.index("\n    } :") :].replace("list<str>", "list<int>")
    found, record = after(LowerToPlan(), function(body), context)
    assert "shared = true" not in found
    assert "may never read it" in record.remarks[-1].message


def test_a_prefix_from_outside_a_condition_is_not_shared(context):
    """The fork may not run, while what reads the prefix behind it does."""
    body = """
    %b = program.literal %s, text = "xyz" : stream
    %n = program.constant value = 3 : int
    %c = program.binary %n, %n, op = "<" : bool
    program.if %c {
      %r = program.fork %b, %n, name = "r" { |%t: stream, %i: int|
        %q = program.literal %t, text = "q" : stream
        %u, %v = program.gen %q, name = "v", type = str, max_tokens = 4 : stream, str
        program.yield %v
      } : list<str>
      program.yield
    } {
      program.yield
    }
    program.return
    """
    found, record = after(LowerToPlan(), function(body), context)
    assert "shared = true" not in found
    assert "it may run not at all, or again" in record.remarks[-1].message


def test_texts_across_a_border_of_control_flow_stay_open(context):
    """`a` then a loop that may add `b`: `ab` is one token, so neither side is encoded alone."""
    body = """
        %a = program.literal %s, text = "a" : stream
        %l = program.constant value = ["b"] : list<str>
        %b = program.for %l, %a { |%e: str, %t: stream|
          %u = program.append %t, %e : stream
          program.yield %u
        } : stream
        %c, %v = program.gen %b, name = "v", type = str, max_tokens = 4 : stream, str
        program.return %v
        """
    text, _ = after(LowerToPlan(), function(body), context)
    assert 'plan.tokenize parts = ["a"]' in text and "plan.tokens ids = [1]" in text


def test_the_space_before_a_gen_is_healed(context):
    body = """
        %a = program.literal %s, text = "Answer: " : stream
        %b, %v = program.gen %a, name = "v", type = int, max_tokens = 4 : stream, int
        program.return %v
        """
    context.constraint_of = lambda type, records: ("regex", "[0-9]+")
    text, _ = after(LowerToPlan(), function(body), context)
    assert 'source = "[0-9]+"' in text and 'heal = " "' in text
    assert 'text = "<1>Answer:"' in text


def test_constraints_are_declared_once(context):
    body = """
        %b, %v = program.gen %s, name = "v", type = int, max_tokens = 4 : stream, int
        %c, %w = program.gen %b, name = "w", type = int, max_tokens = 4 : stream, int
        program.return %v
        """
    context.constraint_of = lambda type, records: ("regex", "[0-9]+")
    text, _ = after(LowerToPlan(), function(body), context)
    assert text.count("plan.constraint name") == 1 and text.count("constraint = @constraint_0") == 2


def test_a_plan_needs_a_vocabulary():
    with pytest.raises(NoVocabulary, match="tokenizer"):
        after(LowerToPlan(), function("program.return"), Context())


PLAN = """
    plan.func name = @f, parameters = [], returns = str { |%kv: kv, %c: bool|
      %one = plan.tokens ids = [1], text = "1" : tokens
      %kv_1 = plan.extend %kv, %one : kv
      %n = program.constant value = 2 : int
      %r = plan.fork %kv_1, %n, name = "r" { |%kv_2: kv, %i: int|
        plan.yield %i
      } : list<int>
      plan.if %c {
        %kv_3, %v = plan.decode %kv_1, name = "v", type = str, max_tokens = 4 : kv, str
        plan.yield
      } {
        plan.yield
      }
      plan.return
    }
    """


def test_every_kv_is_moved_or_freed_on_every_path(context):
    text, _ = after(FreeKV(), PLAN, context)
    assert [line.strip() for line in text.splitlines() if "free" in line] == [
        "plan.free %kv_2",  # a branch that never used its fork
        "plan.free %kv_3",  # after the decode
        "plan.free %kv_1",  # in the region that did not move it
    ]


@pytest.mark.parametrize(
    "loop", ["plan.for %words { |%w: str|", "plan.while limit = 2 {\nplan.condition %c\n} {"]
)
def test_what_a_loop_leaves_with_lives_on_where_it_has_no_round(context, loop):
    plan = f"""
    plan.func name = @f, parameters = [], returns = str {{ |%kv: kv, %c: bool, %words: list<str>|
      %kv_1, %v = plan.inline %kv, name = @g {{ |%kv_2: kv|
        %a = program.constant value = "a" : str
        plan.if %c {{
          {loop}
            plan.leave %kv_2, %a
          }}
          plan.yield
        }} {{
          plan.yield
        }}
        plan.leave %kv_2, %a
      }} : kv, str
      plan.return %v
    }}
    """
    text, _ = after(FreeKV(), plan, context)
    assert [line.strip() for line in text.splitlines() if "free" in line] == ["plan.free %kv_1"]


def test_a_stretch_of_kv_says_when_it_is_read(context):
    body = """
        %a = program.literal %s, text = "All rows. " : stream
        %b, %v = program.gen %a, name = "v", type = str, max_tokens = 4 : stream, str
        %c = program.append %b, %x : stream
        %n = program.constant value = 2 : int
        %r = program.fork %c, %n, name = "r" { |%t: stream, %i: int|
          %q = program.literal %t, text = "q" : stream
          %u, %w = program.gen %q, name = "w", type = str, max_tokens = 4 : stream, str
          program.yield %w
        } : list<str>
        program.return
        """
    plan, _ = after(LowerToPlan(), function(body), context)
    text, _ = after(KVLifetimes(), plan, context)
    found = [line.partition("lifetime = ")[2] for line in text.splitlines() if "lifetime" in line]
    # 0 tokens, 1 extend, 2 decode v, 3 count, 4 tokenize, 5 extend, 6 fork,
    # 7 tokens, 8 extend, 9 decode w
    assert found == [
        '{at = 1, first = 2, next = 9, last = 9, reads = 2, again = true, keep = "batch"} : kv',
        '{at = 2, first = 9, last = 9, reads = 1, again = true, keep = "row"} : kv, str',
        '{at = 5, first = 9, last = 9, reads = 1, again = true, keep = "row"} : kv',
        '{at = 8, first = 9, last = 9, reads = 1, keep = "row"} : kv',
        '{at = 9, reads = 0, keep = "row"} : kv, str',
    ]


def test_ways_are_alike_that_no_chat_template_tells_apart():
    """By their first and last messages, and by whose turn it is."""
    four = ("user", "assistant", "user", "assistant")
    five = ("user", "assistant", "assistant", "user", "assistant")
    state = StreamState(Value("kv", KV))
    ways = [replace(state, roles=roles) for roles in (five, four, (*four, *four[:2]))]
    assert state.joined(ways).others == {four, five}
