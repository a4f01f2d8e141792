"""remote-calls: IR text in, IR text out; what it joins, what it leaves and why, what it refuses."""

from __future__ import annotations

import pytest
from weft.ir.parser import parse_module
from weft.passes.manager import Context, run_passes
from weft.passes.program.endpoints.calls import NoBaseline, NotOverChat, RemoteCalls
from weft.passes.validation.registry import CHECKS

HEAD = "program.func name = @f, parameters = [], returns = str { |%s: stream, %x: str|\n"


def after(body: str, step: RemoteCalls | None = None) -> tuple[str, list[str]]:
    context = Context()
    module = parse_module(HEAD + body + "\n  program.return\n}\n")
    module, _ = run_passes((step or RemoteCalls(),), module, context)
    assert parse_module(str(module)) == module
    return str(module), [remark.message for remark in context.remarks]


def gen(number: int, options: str = "", type: str = "str") -> str:
    return (
        f'  %g{number}, %v{number} = program.gen %l{number}, name = "g{number}", type = {type}, '
        f"max_tokens = 4{options} : stream, {type}\n"
    )


def literal(number: int, text: str, of: str) -> str:
    return f"  %l{number} = program.literal {of}, text = {text} : stream\n"


STOP = ', stop = "."'


def chain(first: str = STOP, text: str = '". b"', second: str = STOP, type: str = "str") -> str:
    return (
        literal(0, '"a"', "%s") + gen(0, first) + literal(1, text, "%g0") + gen(1, second, type)
        + literal(2, '". c"', "%g1") + gen(2)
    )  # fmt: skip


def test_a_chain_of_gens_shares_a_call():
    text, said = after(chain())
    assert text.count("ahead = 2") == 1 and text.count("ahead = 1") == 1
    assert "gen 'g1' is asked for together with gen 'g0'" in " ".join(said)
    assert "1 call; 2 more gens share a call" in said[-1]


def test_it_can_be_told_not_to():
    text, said = after(chain(), RemoteCalls(merge=False))
    assert "ahead" not in text and said[-1].endswith("3 calls")


@pytest.mark.parametrize(
    "body",
    [
        chain().replace(STOP, STOP + ", ahead = 3", 1),  # two follow
        chain(first=", ahead = 1"),  # nothing says where its text ends
        chain(first=STOP + ", ahead = 1", text='" b"'),
        chain(first=STOP + ", ahead = 1", type="int", second=""),
        chain(first=STOP + ", temperature = 1.0, ahead = 1"),
        chain(first=', stop = regex<"x">, ahead = 1'),
    ],
)
def test_a_wrong_count_of_what_one_answer_holds_is_caught(body):
    module = parse_module(HEAD + body + "\n  program.return\n}\n")
    assert list(CHECKS["remote-calls"](module, module, Context()))
    right = parse_module(after(chain())[0])
    assert not list(CHECKS["remote-calls"](right, right, Context()))


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"text": '" b"'}, "does not begin with a stop of gen 'g0'"),
        ({"first": ""}, "does not begin with a stop"),
        ({"type": "int", "second": ""}, "held to a type"),
        ({"first": STOP + ", temperature = 1.0"}, "sampled in different ways"),
        ({"first": STOP + ", logprobs = true"}, "log-probabilities"),
        ({"second": ', stop = regex<"[.]">'}, "at a pattern"),
        ({"first": STOP + ', adapter = "x"'}, "sampled in different ways"),
    ],
)
def test_what_could_change_a_gen_is_left(changes, why):
    text, said = after(chain(**changes))
    assert "ahead = 2" not in text
    assert any("gen 'g1' has a call of its own" in line and why in line for line in said)


def test_a_tool_between_gens_keeps_them_apart():
    tool = "  %t = program.call_tool %v0, name = @tool : str\n"
    body = chain().replace(literal(1, '". b"', "%g0"), tool + literal(1, '". b"', "%g0"))
    text, said = after(body)
    assert "ahead = 2" not in text and any("a tool or a program" in line for line in said)


def test_a_message_between_gens_keeps_them_apart():
    body = """
  %b = program.begin %s, role = "assistant" : stream
  %l0 = program.literal %b, text = "a" : stream
""" + gen(0, STOP) + """
  %e = program.end %g0, role = "assistant" : stream
  %c = program.begin %e, role = "assistant" : stream
  %l1 = program.literal %c, text = ". b" : stream
""" + gen(1)  # fmt: skip
    text, _ = after(body)
    assert "ahead" not in text


def test_counts_know_forks_loops_and_branches():
    body = """
  %n = program.constant value = 3 : int
  %r = program.fork %s, %n, name = "all" { |%t: stream, %i: int|
    %u, %w = program.gen %t, name = "w", type = str, max_tokens = 4 : stream, str
    program.yield %w
  } : list<str>
  %k = program.while %s, limit = 5 { |%a: stream|
    %yes = program.constant value = true : bool
    program.condition %yes
  } { |%a_1: stream|
    %o, %p = program.gen %a_1, name = "p", type = str, max_tokens = 4 : stream, str
    program.yield %o
  } : stream
"""
    _, said = after(body)
    assert said[-1] == (
        "program f: 1 call in each branch of fork 'all' (3 times), 1 call in each of up to 5 "
        "rounds; side by side: the calls of each branch of fork 'all' (3 times)"
    )


MESSAGE = """
  %b = program.begin %s, role = "ROLE" : stream
  %l0 = program.literal %b, text = "a" : stream
"""


@pytest.mark.parametrize(
    "body, says",
    [
        (MESSAGE.replace("ROLE", "user") + gen(0), "a user message"),
        (MESSAGE + '  %e = program.end %l0, role = "user" : stream\n' + literal(1, '"x"', "%e"),
         "outside of all messages"),
        (MESSAGE + "  %f = program.score %l0, %x : float\n", "scores only"),
    ],
)  # fmt: skip
def test_what_chat_has_no_call_for_is_refused(body, says):
    with pytest.raises(NotOverChat, match=says):
        after(body.replace("ROLE", "user"))
    after(body.replace("ROLE", "user"), RemoteCalls(chat=False))


def test_an_unconditional_select_is_refused():
    body = """
  %o = program.list %x : list<str>
  %a, %c = program.select %s, %o, name = "c", by = "unconditional" : stream, str
"""
    with pytest.raises(NoBaseline, match="'c'"):
        after(body)
