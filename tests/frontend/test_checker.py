"""The checker: names bound on every path, types, forks, messages, options; and its warnings."""

import pickle

import pytest
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.errors import WrongArguments
from weft.frontend.semantics.signatures import BUILTINS
from weft.frontend.text.parser import parse_text
from weft.ir.diagnostics import WeftError

HEAD = """\
record R:
    score: int(1..10)
    tags: list[str]

tool look(text: str, times: int = 1) -> R

program p(n: int, xs: list[str], t: str) -> str:
"""

MISTAKES = {
    "unknown name": "return tt",
    "half of a pair": 'return "a\\ud800b"',
    "half of a pair in a stop": 'gen a(stop=["x", "\\udc00"])\n    return a',
    "half of a pair in a choice": 'gen a: choice["x", "\\ude00\\ud83d"]\n    return a',
    "half of a pair as itself": 'gen a: regex "[\udc00]"\n    return a',
    "python's true": "return str(True)",
    "one path": 'if n > 1:\n        let a = "x"\n    return a',
    "two types": 'if n > 1:\n        let a = "x"\n    else:\n        let a = 1\n    return a',
    "only in a loop": "for x in xs:\n        let a = x\n    return a",
    "only in a fork": "fork x in xs as ys:\n        let a = x\n        yield a\n    return a",
    "bound twice": "let t = n\n    return t",
    "not bound": "a = 1\n    return t",
    "bound to another type": "let a = 1\n    a = t\n    return t",
    "gen of another type": "gen t: int\n    return t",
    "loop variable bound": "for t in xs:\n        return t\n    return t",
    "fewer branches than none": "fork -1 as ys:\n        yield 1\n    return t",
    "a sum of fewer branches": "fork 2 * (1 - 2) as ys:\n        yield 1\n    return t",
    "changed in a fork": "fork x in xs as ys:\n        t = x\n        yield t\n    return t",
    "reserved": "let len = 1\n    return t",
    "a tool's name": "gen look\n    return t",
    "unknown function": "return lok(t)",
    "tool as a value": "return look",
    "too many arguments": "return str(look(t, 1, 2).score)",
    "missing argument": "return str(look(times=2).score)",
    "wrong argument": "return str(look(n).score)",
    "argument twice": "return str(look(t, text=t).score)",
    "builtin's arguments": "return str(len(n))",
    "unknown method": "return t.uper()",
    "append": "let ys = xs.append(t)\n    return t",
    "method's arguments": "return t.replace(n)",
    "unknown field": "return str(look(t).scor)",
    "field of a str": "return t.score",
    "index of an int": "return n[0]",
    "index by a str": "return xs[t]",
    "operands": "return t + n",
    "comparison": 'if t < n:\n        return t\n    return "x"',
    "condition": 'if n:\n        return t\n    return "x"',
    "and": 'if n and true:\n        return t\n    return "x"',
    "mixed list": 'let a = ["x", 1]\n    return t',
    "record's field": "let a = R(score=1, tag=xs)\n    return t",
    "record without a field": "let a = R(score=1)\n    return t",
    "a literal outside its range": "let a = R(score=11, tags=xs)\n    return t",
    "an option twice": 'gen a: choice["x", "y", "x"]\n    return a',
    "nothing to say": 'gen a: choice[""]\n    return a',
    "record by position": "let a = R(1, xs)\n    return t",
    "record's type": "let a = R(score=t, tags=xs)\n    return t",
    "let's type": "let a: int = t\n    return t",
    "loop over an int": "for x in n:\n        return x\n    return t",
    "fork over a str": "fork x in t as ys:\n        yield x\n    return t",
    "fork of a str": "fork t as ys:\n        yield 1\n    return t",
    "no yield": 'fork x in xs as ys:\n        "a"\n    return t',
    "yield in an if": "fork 2 as ys:\n        if n > 1:\n            yield 1\n        yield 2\n"
    "    return t",
    "yield outside": "yield t",
    "return in a fork": "fork 2 as ys:\n        return t\n    return t",
    "select from ints": "select x from [1, 2]\n    return t",
    "select from nothing": "select x from []\n    return t",
    "select's option": 'select x(by="luck") from xs\n    return t',
    "unknown type": "gen x: strr\n    return t",
    "int range": "gen x: int(5..1)\n    return t",
    "pattern": 'gen x: regex "[a"\n    return t',
    "pattern that repeats too often": 'gen x: regex "a{99999999999999999999}"\n    return t',
    "pattern beside a literal": 'let a: regex "(" = "x"\n    return a',
    "stop pattern": 'gen x(stop=regex "a*")\n    return t',
    "broken stop pattern": 'gen x(stop=regex "[a")\n    return t',
    "stop that repeats too often": 'gen x(stop=regex "a{99999999999999999999}")\n    return t',
    "unknown option": "gen x(max_token=3)\n    return t",
    "option of nothing near": "gen x(max=3)\n    return t",
    "pattern as an option": 'gen x(regex="[a-z]+")\n    return t',
    "unknown option of a select": 'select x from ["a"](max=3)\n    return t',
    "option's value": "gen x(max_tokens=0)\n    return t",
    "option not constant": "gen x(max_tokens=n)\n    return t",
    "option twice": "gen x(max_tokens=1, max_tokens=2)\n    return t",
    "nested message": 'assistant:\n        user "a"\n    return t',
    "no return": "if n > 1:\n        return t",
    "return's type": "return n",
    "empty return": "return",
    "error of a value": 'match t:\n        case error e:\n            return e.kind\n    return t',
    "case of another type": 'match n:\n        case "a":\n            return t\n    return t',
    "case beyond the choice": 'gen c: choice["a", "b"]\n    match c:\n        case "d":\n'
    '            return t\n    return t',
    "unreachable case": "match n:\n        case _:\n            return t\n        case 1:\n"
    "            return t",
    "case twice": "match n:\n        case 1 | 1:\n            return t\n    return t",
    "only one case": "match n:\n        case 1:\n            let a = t\n        case _:\n"
    '            "a"\n    return a',
    "not every case returns": "match n > 1:\n        case true:\n            return t",
    "error's field": "let r = look(t)\n    match r:\n        case error e:\n"
    "            return e.text\n    return t",
    "calling a program": 'return p(n, xs, t)',
    "unknown program": "let a = call q(t)\n    return t",
    "program's arguments": "let a = call p(n, xs)\n    return t",
    "recursion": "let a = call p(n, xs, t)\n    return a",
    "score": "return str(score(n))",
    "join without a fork": "join best(by=[1])\n    return t",
    "join after a text": 'fork 2 as ys:\n        yield 1\n    "a"\n    join best(by=ys)\n'
    "    return t",
    "join by strings": "fork x in xs as ys:\n        yield x\n    join best(by=ys)\n    return t",
    "join worst": "fork 2 as ys:\n        yield 1\n    join worst(by=ys)\n    return t",
    "with": 'with adaptor "a":\n        gen x\n    return t',
    "with's value": "with priority t:\n        gen x\n    return t",
    "with's type": 'with priority "a":\n        gen x\n    return t',
    "probs of a str": "return str(t.probs)",
    "probs by number": "select x from xs\n    return str(x.probs[0])",
    "probs of no option": 'select x from ["a", "b"]\n    return str(x.probs["c"])',
    "a function of Python": "print(t)",
    "another function of Python": "return zip(t)",
    "logprobs not asked for": "gen x\n    return str(x.logprobs)",
    "too many cases": "if n == 0:\n        return t\n"
    + "".join(f"    elif n == {i}:\n        return t\n" for i in range(1, 102)) + "    return t",
}  # fmt: skip

DECLARATIONS = {
    "record twice": "record A:\n    x: int\n\nrecord A:\n    y: int\n",
    "field twice": "record A:\n    x: int\n    x: int\n",
    "parameter twice": "tool f(x: int, x: int)\n",
    "recursive record": "record A:\n    b: list[B]\n\nrecord B:\n    a: A\n",
    "unknown field type": "record Review:\n    x: int\n\nrecord A:\n    r: Reviw\n",
    "field option": "record A:\n    x: str(temperature=1)\n",
    "default's type": "program p(x: int = \"a\"):\n    return\n",
    "field's pattern": "record A:\n    x: regex \"(\"\n\n"
    "program p():\n    let a = A(x=\"y\")\n",
    "default computed": "program p(x: int = 1 + 1):\n    return\n",
    "builtin's name": "tool len(x: str)\n",
    "returns nothing": "program p():\n    return 1\n",
}  # fmt: skip


def failure(text: str) -> WeftError:
    file = parse_text(text, "program.weft")
    with pytest.raises(WeftError) as caught:
        check(file)
    return caught.value


def accepted(body: str) -> list[str]:
    return [str(warning) for warning in check(parse_text(HEAD + "    " + body + "\n", "p.weft"))]


def test_rendered_errors(golden):
    shown = []
    texts = {name: HEAD + "    " + body + "\n" for name, body in MISTAKES.items()}
    for name, text in (texts | DECLARATIONS).items():
        error = failure(text)
        shown.append(f"== {name}: {type(error).__name__}\n{error.render()}\n")
    golden("errors/checker.txt", "\n".join(shown))


@pytest.mark.parametrize("body", MISTAKES.values(), ids=MISTAKES)
def test_every_error_points_at_its_place_and_pickles(body):
    error = failure(HEAD + "    " + body + "\n")
    assert error.span is not None and error.span.line >= 7
    assert "^" in error.render()
    assert pickle.loads(pickle.dumps(error)).render() == error.render()


@pytest.mark.parametrize(
    "body",
    [
        'if n > 1:\n        let a = "x"\n    else:\n        let a = "y"\n    return a',
        'if n > 1:\n        return t\n    else:\n        let a = "y"\n    return a',
        'let a: list[str] = []\n    for x in xs:\n        a += [x]\n    return ", ".join(a)',
        "for x in xs:\n        gen a\n    for x in xs:\n        gen a\n    return t",
        "let a = 0\n    for x in xs:\n        gen a: int(1..5)\n    return str(a + 1)",
        "gen a: int(1..5)\n    gen a: int(1..9)\n    return str(a)",
        'let a = 1.5\n    a = 2\n    return "{a}"',
        "fork 2 - 2 as ys:\n        yield t\n    return t",
        "fork n - 9 as ys:\n        yield t\n    return t",
        "fork 2 as ys:\n        fork x in xs as zs:\n            yield x\n        yield zs\n"
        "    return ys[0][0]",
        "return look(t, times=n).tags[0] + t * 2",
        'gen a: choice["x", "y"]\n    return a',
        "gen a: list[R]\n    return str(a[0].score)",
    ],
)
def test_accepted(body):
    warnings = accepted(body)
    assert all("never used" in warning for warning in warnings)


@pytest.mark.parametrize("name", BUILTINS)
def test_a_builtin_of_nothing_is_told_what_it_takes(name):
    error = failure(HEAD + f"    let a = {name}()\n    return t\n")
    assert isinstance(error, WrongArguments) and error.fields["want"]


def test_log_probabilities_of_no_text_are_named():
    (warning,) = [
        one for one in accepted("gen a(logprobs=true): int\n    return t") if "logprobs" in one
    ]
    assert warning.startswith("p.weft:8:5: warning: `logprobs` does nothing: a gen of int binds")
    assert "does nothing" not in "".join(
        accepted('gen a(logprobs=true): choice["a", "b"]\n    return t')
    )


def test_warnings():
    assert accepted('return t\n    "late"')[0].startswith("p.weft:9:5: warning: nothing reaches")
    assert [line.partition("warning: ")[2] for line in accepted("return t")] == [
        "the parameter `n` is never used",
        "the parameter `xs` is never used",
    ]


def test_elements_of_a_list_are_bounded_as_records():
    error = failure("record R:\n    words: list[str(max_tokens=3)]\n")
    assert "elements take no `max_tokens` here" in str(error)
    assert str(error).endswith("hint: let them be records: a record's field takes it")


def test_names_in_braces_that_are_text_are_told():
    body = 'for x in xs:\n        "{{ t }} {{n}} {{u}} {{{x}}} {n}"\n    return t'
    assert accepted(body) == [
        f"p.weft:9:9: warning: `{shown}` is text here: the value of `{name}` is not inserted\n"
        "hint: single braces insert it (in Python those of an f-string)"
        for shown, name in (("{ t }", "t"), ("{n}", "n"))
    ]
