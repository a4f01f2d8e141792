"""The parser: AST of each form, spans, and the round trip of random programs."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.frontend import ast
from weft.frontend.ast_dump import dump
from weft.frontend.semantics.checker import KEYWORDS
from weft.frontend.text.parser import parse, parse_text
from weft.frontend.unparse import unparse, unparse_expression
from weft.ir.source import Source
from weft.tests.each_time import examples

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.weft"))


def statements(*lines: str) -> tuple[ast.Statement, ...]:
    text = "\n".join(["program p():", *("    " + line for line in lines)])
    return parse_text(text).programs[0].body


def expression(text: str) -> ast.Expression:
    (found,) = statements(f"return {text}")
    assert isinstance(found, ast.Return) and found.value is not None
    return found.value


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_read_back_from_their_printed_text(path):
    file = parse(Source(str(path), path.read_text()))
    again = parse(Source(str(path), unparse(file)))
    assert again == file
    assert unparse(again) == unparse(file)


def test_interpolation_keeps_text_and_expressions_in_order():
    (found,) = statements('"a {b} {{c}} {d.e[0]}\\n"')
    assert found == ast.Append(
        ast.Text((
            "a ", ast.Name("b"), " {c} ",
            ast.Index(ast.FieldOf(ast.Name("d"), "e"), ast.Literal(0)), "\n",
        ))
    )  # fmt: skip


def test_spans_point_into_interpolations():
    text = 'program p(x: str):\n    user "é ä {x.upper()}"\n'
    (message,) = parse_text(text).programs[0].body
    call = message.body[0].text.parts[1]
    assert (call.span.line, call.span.column, call.span.end_column) == (2, 16, 25)
    assert text.splitlines()[1][15:24] == "x.upper()"


def test_spans_point_into_long_strings():
    text = 'program p(x: str):\n    user """one\n  two {x}"""\n'
    (message,) = parse_text(text).programs[0].body
    name = message.body[0].text.parts[1]
    assert (name.span.line, name.span.column) == (3, 8)


def test_quotes_may_stand_inside_an_interpolation():
    assert expression('"{f("a")}"') == expression("\"{f('a')}\"")


def test_a_pattern_is_read_as_it_stands():
    (found,) = statements('gen x: regex "[a-z]{2,3}\\d"')
    assert found.type.arguments == ("[a-z]{2,3}\\d",)


def test_only_a_triple_quoted_string_that_opens_a_program_is_its_doc():
    first = parse_text('program p():\n    """About."""\n    "text"\n').programs[0]
    assert first.doc == "About." and len(first.body) == 1
    second = parse_text('program p():\n    "text"\n    """more"""\n').programs[0]
    assert second.doc is None and len(second.body) == 2


def test_comments_and_blank_lines_are_nothing():
    text = "# head\n\nprogram p():  # name\n\n    # inside\n    return  # end\n# last"
    assert parse_text(text) == parse_text("program p():\n    return\n")


def test_brackets_hold_lines_together():
    assert statements("let x = [", '    "a",  # one', '    "b",', "]") == statements(
        'let x = ["a", "b"]'
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1 + 2 * 3", "1 + (2 * 3)"),
        ("1 - 2 - 3", "(1 - 2) - 3"),
        ("not a == b and c or d", "((not (a == b)) and c) or d"),
        ("-x.y[0]", "-(x.y[0])"),
        ("a not in b", "not (a in b)"),
        ("- 1", "-1"),
    ],
)
def test_operators_bind_as_in_python(text, same):
    assert expression(text) == expression(same)


def test_the_type_of_a_gen():
    (found,) = statements("gen x: list[choice[\"a\", 'b']]")
    assert found.type == ast.Type("list", (ast.Type("choice", ("a", "b")),))
    (found,) = statements("gen x: int(-5..5)")
    assert found.type == ast.Type("int", (-5, 5))
    assert statements("gen x: json R") == statements("gen x: R")


def test_dump_of_the_ast(golden):
    path = Path(__file__).parents[2] / "examples" / "essay_judge.weft"
    golden("ast/essay_judge.txt", dump(parse(Source(path.name, path.read_text()))))


# Random programs

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(lambda x: x not in KEYWORDS)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")))
TEXTS = st.one_of(PLAIN, st.sampled_from(["\n", '"', "\\", "{}", "{x}", "'", "a\tb", "#"]))


def text_of(parts: list[str | ast.Expression]) -> ast.Text:
    """Join adjacent texts, and drop empty ones, as the parser does."""
    merged: list[str | ast.Expression] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return ast.Text(tuple(merged))


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6, allow_nan=False), st.booleans(), st.none()
)
FLAT = st.one_of(st.builds(ast.Literal, NUMBERS), st.builds(ast.Name, NAMES))
ATOMS = st.one_of(FLAT, st.builds(lambda text: text_of([text]), TEXTS))
BINARY = st.sampled_from(["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "in"])


def tuples(of: st.SearchStrategy, least: int = 0, most: int = 3) -> st.SearchStrategy:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


def is_number(node: ast.Expression) -> bool:
    return isinstance(node, ast.Literal) and type(node.value) in {int, float}


def larger(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(ast.Unary, st.just("not"), inner),
        st.builds(ast.Unary, st.just("neg"), inner.filter(lambda node: not is_number(node))),
        st.builds(ast.Binary, BINARY, inner, inner),
        st.builds(ast.Logical, st.sampled_from(["and", "or"]), inner, inner),
        st.builds(ast.Method, inner, NAMES, tuples(inner)),
        st.builds(ast.FieldOf, inner, NAMES),
        st.builds(ast.Index, inner, inner),
        st.builds(ast.ListOf, tuples(inner)),
        st.builds(
            ast.Run,
            st.just("call"),
            NAMES,
            tuples(inner),
            tuples(st.builds(ast.Argument, NAMES, inner), most=1),
        ),
        st.builds(
            ast.Call, NAMES, tuples(inner), tuples(st.builds(ast.Argument, NAMES, inner), most=2)
        ),
    )


EXPRESSIONS = st.recursive(ATOMS, larger, max_leaves=8)
HOLES = st.recursive(FLAT, larger, max_leaves=4)  # no braces inside braces
STRINGS = st.lists(st.one_of(TEXTS, HOLES), max_size=4).map(text_of)
ARGUMENTS = tuples(st.builds(ast.Argument, NAMES, EXPRESSIONS), most=2)
TYPES = st.recursive(
    st.one_of(
        st.builds(ast.Type, NAMES.filter(lambda name: name != "json")),
        st.builds(ast.Type, st.just("int"), st.tuples(st.integers(-9, 9), st.integers(-9, 9))),
        st.builds(ast.Type, st.just("choice"), tuples(TEXTS, least=1)),
        st.builds(ast.Type, st.just("regex"), st.just(("[a-z]{2}\\d",))),
    ),
    lambda inner: st.builds(ast.Type, st.just("list"), st.tuples(inner)),
    max_leaves=2,
)
RUNS = st.builds(
    ast.Run, st.just("inline"), NAMES, tuples(EXPRESSIONS),
    tuples(st.builds(ast.Argument, NAMES, EXPRESSIONS), most=2),
)  # fmt: skip
LITERALS = st.one_of(st.builds(ast.Literal, NUMBERS), st.builds(lambda t: text_of([t]), TEXTS))


def cases(bodies: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(ast.Case, st.just("literal"), tuples(LITERALS, 1), st.none(), bodies),
        st.builds(ast.Case, st.just("error"), st.just(()), st.one_of(st.none(), NAMES), bodies),
        st.builds(ast.Case, st.just("value"), st.just(()), NAMES, bodies),
        st.builds(ast.Case, st.just("any"), st.just(()), st.none(), bodies),
    )


PATTERNS = st.builds(ast.Argument, st.just("stop"), st.just(ast.Pattern("[a-z]{2}\\d")))
SIMPLE = st.one_of(
    st.builds(ast.Append, STRINGS),
    st.builds(ast.Gen, NAMES, TYPES, ARGUMENTS),
    st.builds(ast.Gen, NAMES, TYPES, st.tuples(PATTERNS)),
    st.builds(ast.Select, NAMES, EXPRESSIONS, ARGUMENTS),
)
STATEMENTS = st.recursive(
    st.one_of(
        SIMPLE,
        st.builds(ast.Yield, EXPRESSIONS),
        st.builds(ast.Assign, NAMES, EXPRESSIONS, st.one_of(st.none(), TYPES)),
        st.builds(lambda name, value: ast.Assign(name, value, declares=False), NAMES, EXPRESSIONS),
        st.builds(ast.Return, st.one_of(st.none(), EXPRESSIONS, RUNS)),
        st.builds(ast.Assign, NAMES, RUNS),
        st.builds(ast.Evaluate, RUNS),
        st.builds(
            ast.Join,
            NAMES,
            tuples(st.builds(ast.Argument, NAMES, EXPRESSIONS), 1),
            st.one_of(st.none(), NAMES),
        ),
    ),
    lambda inner: st.one_of(
        st.builds(ast.Message, st.sampled_from(["system", "user", "assistant"]), tuples(inner, 1)),
        st.builds(ast.Fork, NAMES, EXPRESSIONS, NAMES, tuples(inner, 1)),
        st.builds(ast.Fork, st.none(), EXPRESSIONS, NAMES, tuples(inner, 1)),
        st.builds(ast.For, NAMES, EXPRESSIONS, tuples(inner, 1)),
        st.builds(ast.While, EXPRESSIONS, st.integers(1, 9), tuples(inner, 1)),
        st.builds(ast.If, EXPRESSIONS, tuples(inner, 1), tuples(inner)),
        st.builds(ast.With, NAMES, EXPRESSIONS, tuples(inner, 1)),
        st.builds(ast.Match, EXPRESSIONS, tuples(cases(tuples(inner, 1)), 1)),
    ),
    max_leaves=6,
)
DEFAULTS = st.one_of(st.none(), ATOMS)
PARAMETERS = tuples(st.builds(ast.Parameter, NAMES, TYPES, DEFAULTS))
FILES = st.builds(
    ast.File,
    tuples(
        st.one_of(
            st.builds(
                ast.Record, NAMES, tuples(st.builds(ast.Field, NAMES, TYPES), least=1), st.none()
            ),
            st.builds(ast.Tool, NAMES, PARAMETERS, st.one_of(st.none(), TYPES), st.just(2.5)),
            st.builds(
                ast.Program, NAMES, PARAMETERS, st.one_of(st.none(), TYPES),
                tuples(STATEMENTS, 1), st.one_of(st.none(), st.just("About {it}.")),
            ),
        )
    ),
)  # fmt: skip


@settings(max_examples=examples(120), deadline=None)
@given(FILES)
def test_printed_programs_read_back(file):
    text = unparse(file)
    again = parse_text(text)
    assert again == file, text
    assert unparse(again) == text


@pytest.mark.parametrize(
    "pattern", ["'a\"b'", "'[\"}]+x'", '"it\'s"', '"""a"b\'c"""', "'\"'", '"""a\nb"""', '"a\\"b"']
)
def test_a_pattern_reads_back_whatever_quotes_it_holds(pattern):
    text = f"program p() -> str:\n    gen y(stop=regex {pattern}): regex {pattern}\n    return y\n"
    file = parse_text(text)
    assert parse_text(unparse(file)) == file


def test_a_pattern_that_no_quotes_hold_is_printed_at_once_however_many_escapes_it_has():
    pattern = "it's " + 60 * r"\d"
    printed = unparse_expression(ast.Pattern(pattern + '"'))
    assert printed == f'regex "{pattern}\\""'


def test_parentheses_stay_where_they_decide():
    value = "a - (b - a) < (a - b) * 2 and not (a == 1 or b == 1)"
    text = f"program p(a: int, b: int) -> bool:\n    return {value}\n"
    assert unparse(parse_text(text)) == text


@settings(max_examples=examples(150), deadline=None)
@given(st.text("program()us er\"'{}[]:=+.,\n\\ #12", max_size=60))
def test_any_text_gives_a_file_or_a_diagnostic(text):
    from weft.ir.diagnostics import WeftSyntaxError

    try:
        parse_text("program p():\n    " + text)
    except WeftSyntaxError as error:
        assert error.span is not None
        assert error.span.line >= 1 and error.span.column >= 1


def test_two_escapes_of_one_character_are_that_character():
    (statement,) = parse_text('program p():\n    "a\\ud83d\\ude00{x}\\ud83d"\n').programs[0].body
    assert statement.text.parts[::2] == ("a\U0001f600", "\ud83d")
