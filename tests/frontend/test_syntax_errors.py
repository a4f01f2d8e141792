"""Syntax errors: each has its own name, a caret at the place, and a hint that helps."""

import pickle
import re

import pytest
from weft.frontend.text.mistake_examples import EXAMPLES
from weft.frontend.text.mistakes import STATEMENTS
from weft.frontend.text.parser import lark, parse_text
from weft.frontend.text.syntax_errors import NumberTooLong, TooDeep
from weft.ir.diagnostics import WeftSyntaxError

MISTAKES = {
    "record": "record Review\n    score: int\n",
    "record field": "record Review:\n    score = int\n",
    "tool": "tool count(text: str) -> int:\n",
    "parameter": "program p(essay):\n    return\n",
    "program": "program p(essay: str)\n    return\n",
    "type": "program p(n: int(1)):\n    return\n",
    "outside": 'user "hello"\n',
    "message": "program p():\n    user hello\n",
    "gen": "program p():\n    assistant gen 5\n",
    "gen options": "program p():\n    gen x(20)\n",
    "select": 'program p():\n    select x in ["A", "B"]\n',
    "match": "program p():\n    match x:\n        1\n",
    "pattern": "program p():\n    match x:\n        case y:\n            return\n",
    "inline in an expression": "program p():\n    let x = 1 + inline other(1)\n",
    "join": "program p():\n    join best\n",
    "with": 'program p():\n    with adapter "a"\n',
    "select options": 'program p():\n    select x from ["A"] by "greedy"\n',
    "fork": "program p():\n    fork side in sides:\n        yield side\n",
    "yield": "program p():\n    fork 2 as x:\n        yield\n",
    "for": "program p():\n    for x of xs:\n        return\n",
    "if": "program p():\n    if x = 1:\n        return\n",
    "else": "program p():\n    if x:\n        return\n    else x:\n        return\n",
    "while": "program p():\n    while x == 1:\n        return\n",
    "let": "program p():\n    let x\n",
    "unknown statement": 'program p():\n    usr "hello"\n',
    "assignment": "program p():\n    x.y = 1\n",
    "return": "program p():\n    return 1 2\n",
    "expression": "program p():\n    let x = 1 +\n",
    "list": "program p():\n    let x = [1 2]\n",
    "comparison": "program p():\n    return 1 < x < 3\n",
    "interpolation": 'program p():\n    user "a {b c} d"\n',
    "open brace": 'program p():\n    user "a {b"\n',
    "comment in braces": 'program p():\n    user "a {x#y} {", ".join(["#"])}"\n',
    "empty braces": 'program p():\n    user "a {}"\n',
    "escape": 'program p():\n    user "a \\q"\n',
    "open string": 'program p():\n    user "a\n',
    "character": "program p():\n    let x = 1 ? 2\n",
    "typographic quotes": "program p():\n    “a”\n",
    "semicolon": "program p():\n    gen a;\n",
    "letter of another alphabet": "program p():\n    gen größe\n",
    "exclamation mark": "program p():\n    if !x:\n        return\n",
    "prefixed string": 'program p():\n    f"a {b}"\n',
    "prefixed value": 'program p():\n    let x = f"a {b}"\n',
    "comprehension": "program p():\n    let x = [y.z for y in ys]\n",
    "loop in a call": "program p():\n    return sum(2 * y for y in ys)\n",
    "format": 'program p():\n    "a {b:.2f}"\n',
    "JSON in a string": 'program p():\n    user "{"a": 1}"\n',
    "choice": 'program p():\n    gen x: choice["a{b}"]\n',
    "open bracket": 'program p():\n    let x = (1 + 2\n    user "a"\n',
    "open list": 'program p():\n    let x = [\n        "a)",  # (\n        "b"\n    gen y\n',
    "open to the end": "program p():\n    gen x(max_tokens=3\n",
    "open on a header": "program p(a: str, b: int -> str:\n    return a\n",
    "open in braces": 'program p():\n    user "a {len(b} c"\n',
    "bracket too many": "program p():\n    gen x(max_tokens=3))\n",
    "brackets crossed": "program p():\n    let x = f([1, 2)]\n",
    "break": "program p():\n    for x in xs:\n        break\n",
    "try": 'program p():\n    try:\n        "a"\n',
    "import": "import re\n\nprogram p():\n    return\n",
    "conditional expression": 'program p():\n    let y = "a" if x else "b"\n',
    "else if": 'program p():\n    if x:\n        "a"\n    else if y:\n        "b"\n',
    "slice": "program p():\n    let y = x[1:2]\n",
    "is": 'program p():\n    if x is none:\n        "a"\n',
    "power": "program p():\n    let y = x ** 2\n",
    "equals sign in a condition": "program p():\n    while x = 1 up to 2:\n        return\n",
    "lambda": "program p():\n    let y = lambda x: x\n",
    "lambda in a list": "program p():\n    let y = [lambda: 3]\n",
    "tuple": "program p():\n    let y = [(1, 2)]\n",
    "tuple as a result": "program p():\n    return (1, 2)\n",
    "gen as a value": "program p():\n    let y = gen(max_tokens=3)\n",
    "space that is none": 'program p():\n    user\u00a0"a"\n',
    "indentation": 'program p():\n    "a"\n  "b"\n',
    "extra indentation": 'program p():\n    "a"\n      "b"\n',
    "word as a tool": "tool none(x: str) -> str\n",
    "word as a parameter": "program p(in: str):\n    return\n",
    "word as a field": "record R:\n    true: int\n",
    "word as a record": "record gen:\n    a: int\n",
    "word as a variable": "program p():\n    let from = 3\n",
    "word as a result": "program p():\n    fork 2 as in:\n        yield 1\n",
    "word as an error": "program p():\n    match x:\n        case error in:\n            return\n",
    "word as a gen": "program p():\n    gen return\n",
    "word as an argument": "program p():\n    let x = f(for)\n",
    "word as a type": "program p(x: if):\n    return\n",
    "word as a gen's type": "program p():\n    gen x: none\n",
    "word as what is returned": "program p() -> for:\n    return\n",
    "missing block": "program p():\nreturn\n",
}


def failure(text: str) -> WeftSyntaxError:
    with pytest.raises(WeftSyntaxError) as caught:
        parse_text(text, "program.weft")
    return caught.value


def test_rendered_errors(golden):
    shown = []
    for name, text in MISTAKES.items():
        error = failure(text)
        shown.append(f"== {name}: {type(error).__name__}\n{error.render()}\n")
    golden("errors/syntax.txt", "\n".join(shown))


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_each_example_gets_its_name(kind):
    for text in EXAMPLES[kind]:
        assert type(failure(text)) is kind, text


@pytest.mark.parametrize("kind", ["MalformedGen", "MalformedFork", "UnboundedWhile"])
def test_names_do_not_depend_on_the_depth(kind):
    text = {
        "MalformedGen": "gen x(20)",
        "MalformedFork": "fork x in xs:\n                    yield x",
        "UnboundedWhile": "while true:\n                    return",
    }[kind]
    head = "program p():\n    if true:\n        assistant:\n            for x in y:\n"
    assert type(failure(f"{head}                {text}\n")).__name__ == kind


def test_words_of_some_statements_are_still_names():
    parse_text('program p(match: str, call: str):\n    let with_x = ", ".join([match, call])\n')
    parse_text(
        "program p(join: str, with: int):\n    match = join\n    with = 1\n    join(match)\n"
    )


def test_errors_survive_pickling():
    error = failure("program p():\n    let x\n")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.render() == error.render()


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_every_error_has_a_line_and_a_caret(text):
    error = failure(text)
    assert error.span is not None
    assert "^" in error.render(), error.render()
    assert text.splitlines()[error.span.line - 1] in error.render()


@pytest.mark.parametrize("text", ["1" + " + 1" * 3000, "(" * 5 + "not " * 3000 + "true" + ")" * 5])
def test_nested_too_deeply(text):
    error = failure(f'program p():\n    "a"\n    return {text}\n')
    assert isinstance(error, TooDeep)
    assert error.span is not None and error.span.line == 3


@pytest.mark.parametrize("place", ["return {}", "gen x(max_tokens={})", "let x = [1, {}]"])
def test_a_number_of_thousands_of_digits_has_its_place(place):
    error = failure(f"program p() -> int:\n    {place.format('9' * 5000)}\n    return 1\n")
    assert type(error) is NumberTooLong
    assert (error.span.line, error.span.column) == (2, 5 + place.index("{"))


def test_blocks_without_end_are_told():
    blocks = "".join("    " * (depth + 1) + f"if a > {depth}:\n" for depth in range(400))
    error = failure("program p(a: int) -> int:\n" + blocks + "    " * 401 + "return 1\n")
    assert type(error) is TooDeep


def test_an_option_of_another_pattern_is_not_told_of_cases():
    with pytest.raises(WeftSyntaxError, match=r"`r \.\.\.` is no pattern") as found:
        parse_text('program p() -> str:\n    gen a(stop=r"x")\n    return a\n')
    assert "regex" in found.value.hint_text and "case" not in found.value.hint_text


def test_words_that_a_misspelt_one_is_compared_with_are_those_that_begin_statements():
    parsing = lark().parse_interactive("program p():\n    return 1\n", start="file")
    for token in parsing.lexer_thread.lex(parsing.parser_state):
        if token.type == "_DEDENT":
            break
        parsing.feed_token(token)
    patterns = {one.name: one.pattern.value for one in lark().terminals}
    words = [re.match(r"\(?([a-z|]+)", patterns.get(name, "")) for name in parsing.accepts()]
    begin = {word for found in words if found for word in found[1].split("|")}
    assert set(STATEMENTS) == begin | {"score"}
