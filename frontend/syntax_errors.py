"""Named syntax errors: which mistake a text makes is found from examples of each mistake."""

from __future__ import annotations

import re
from functools import cache

from lark import Lark, UnexpectedCharacters, UnexpectedInput

from ..ir.diagnostics import WeftSyntaxError
from ..ir.source import Source, Span
from .strings import Origin


class UnexpectedText(WeftSyntaxError):
    """A mistake that has no name of its own."""

    template = "{found} cannot stand here"


class UnevenIndentation(WeftSyntaxError):
    """A line that returns to no level of the lines above."""

    template = "this line's indentation matches no line above it"
    hint = "indent a block by four spaces, and return to the column of the line that opened it"

    @staticmethod
    def at(line: int, column: int) -> UnevenIndentation:
        """Return the error at a line's first character, in a source that is not known yet."""
        return UnevenIndentation(span=Span("", line, 1, line, max(column, 2)))

    def moved(self, source: Source, origin: Origin) -> UnevenIndentation:
        """Return the same error, placed in `source`."""
        assert self.span is not None
        line = self.span.line + origin[0] - 1
        span = Span(source.name, line, 1, line, self.span.end_column)
        return UnevenIndentation(span=span, source=source)


class UnclosedString(WeftSyntaxError):
    """A quote without its partner on the line."""

    template = "this string does not end on its line"
    hint = 'close it with the quote that opened it, or use """ for text of several lines'


class StrangeCharacter(WeftSyntaxError):
    """A character that no weft text has outside strings."""

    template = "the character {found} has no meaning here"


class NotAvailableYet(WeftSyntaxError):
    """A statement of the language that this version does not compile."""

    template = "`{statement}` is part of the language, but not available yet"


class MissingBlock(WeftSyntaxError):
    """A colon with nothing indented below it."""

    template = "an indented block is missing here"
    hint = "indent the statements below the colon by four spaces"


class UnexpectedIndentation(WeftSyntaxError):
    """An indented line below a line that opens no block."""

    template = "this line is indented, but the line above opens no block"


class MalformedRecord(WeftSyntaxError):
    """A record that does not read."""

    template = "{found} does not fit a record"
    hint = "record Review:\n    score: int(1..10)"


class MalformedTool(WeftSyntaxError):
    """A tool declaration that does not read."""

    template = "{found} does not fit a tool"
    hint = "tool word_count(text: str) -> int"


class MalformedProgram(WeftSyntaxError):
    """A program's first line that does not read."""

    template = "{found} does not fit a program's first line"
    hint = "program judge(essay: str) -> str:"


class MalformedType(WeftSyntaxError):
    """A type that does not read."""

    template = "{found} does not fit a type"
    hint = 'types are str, int, int(1..10), float, bool, choice["a", "b"], regex "...", list[str]'


class MalformedMessage(WeftSyntaxError):
    """A system, user or assistant statement that does not read."""

    template = "{found} does not fit a message"
    hint = 'user "text", assistant gen answer, or assistant: and a block'


class MalformedGen(WeftSyntaxError):
    """A gen that does not read."""

    template = "{found} does not fit a gen"
    hint = 'gen NAME, gen NAME: TYPE, or gen NAME(max_tokens=20, stop="\\n"): TYPE'


class MalformedSelect(WeftSyntaxError):
    """A select that does not read."""

    template = "{found} does not fit a select"
    hint = 'select NAME from ["A", "B"]'


class MalformedFork(WeftSyntaxError):
    """A fork that does not read."""

    template = "{found} does not fit a fork"
    hint = "fork side in sides as reviews:   or   fork 3 as drafts:"


class MalformedYield(WeftSyntaxError):
    """A yield that does not read."""

    template = "{found} does not fit a yield"
    hint = "yield VALUE, as the last statement of a fork"


class MalformedFor(WeftSyntaxError):
    """A for loop that does not read."""

    template = "{found} does not fit a for loop"
    hint = "for question in questions:"


class MalformedIf(WeftSyntaxError):
    """An if, elif or else that does not read."""

    template = "{found} does not fit an if"
    hint = "if CONDITION:, then elif CONDITION: and else: at the same column"


class UnboundedWhile(WeftSyntaxError):
    """A while loop without its bound."""

    template = "this while loop has no bound: {found} where `up to N` belongs"
    hint = "while not done up to 5:   (every loop is bounded, so that budgets can be proven)"


class MalformedWhile(WeftSyntaxError):
    """A while loop that does not read."""

    template = "{found} does not fit a while loop"
    hint = "while not done up to 5:"


class MalformedLet(WeftSyntaxError):
    """A let or an assignment that does not read."""

    template = "{found} does not fit an assignment"
    hint = "let total = 0, and later: total = total + 1"


class MalformedReturn(WeftSyntaxError):
    """A return that does not read."""

    template = "{found} does not fit a return"
    hint = "return VALUE"


class ChainedComparison(WeftSyntaxError):
    """`a < b < c`."""

    template = "comparisons do not chain"
    hint = "write a < b and b < c"


class MalformedExpression(WeftSyntaxError):
    """An expression that breaks off or goes on where it cannot."""

    template = "{found} does not fit an expression"


class MisplacedStatement(WeftSyntaxError):
    """A statement outside any program."""

    template = "{found} cannot stand outside a program"
    hint = "statements belong into a program: program NAME(parameters) -> TYPE:"


def _in_program(*statements: str) -> list[str]:
    return [f"program p():\n    {statement}\n" for statement in statements]


EXAMPLES: dict[type[WeftSyntaxError], list[str]] = {
    MisplacedStatement: ['"text"\n', "let x = 1\n", 'user "hi"\n', "x = 1\n", "return 1\n"],
    MissingBlock: [
        "program p():\nreturn 1\n", "record R:\nscore: int\n",
        *_in_program("if x:\n    return 1", "else_:\n    return 1"),
    ],
    UnexpectedIndentation: _in_program('"a"\n        "b"'),
    MalformedRecord: [
        "record:\n", "record R\n", "record R(a)\n", "record R:\n    a\n", "record R:\n    a = 1\n",
        "record R:\n    a: int = 1\n", "record 1:\n", "record R:\n    1\n",
    ],
    MalformedTool: [
        "tool\n", "tool f\n", "tool f(x)\n", "tool f(x: str) ->\n", "tool f(x: str):\n",
        "tool f(x: str) -> int:\n", "tool f(x: str) int\n", "tool 1\n", "tool f(1\n",
    ],
    MalformedProgram: [
        "program:\n", "program p:\n", "program p(x):\n", "program p()\n", "program p() -> str\n",
        "program p() str:\n", "program p() ->:\n", "program p(1):\n", "program 1\n",
        "program p() -> str return\n",
    ],
    MalformedType: [
        "program p(x: 1):\n", "program p(x: ):\n", "program p(x: list[):\n",
        "program p(x: int(1)):\n", "program p(x: int(1..)):\n", "program p(x: list[str):\n",
        'program p(x: choice["a" "b"]):\n', "program p(x: int(1..2):\n", "program p(x: json 1):\n",
        "program p(x: int(1...5)):\n", "record R:\n    a:\n",
    ],
    MalformedMessage: _in_program(
        "user\n", "user hello\n", "user 1\n", 'user "a" "b"\n', "assistant return x\n",
        'user("hi")\n', 'user = "hi"\n', "user = 1\n",
    ),
    MalformedGen: _in_program(
        "gen\n", "gen 1\n", "gen x y\n", "gen x(\n", "gen x(20)\n", "gen x(a=1\n", "gen x(a=1 b)\n",
        "gen x = 1\n", "gen x(a)\n", 'gen "x"\n', "gen x -> int\n", "gen x[1]\n",
    ),
    MalformedSelect: _in_program(
        "select\n", "select x\n", "select x in y\n", "select x: y\n", "select 1\n",
        'select ["a"]\n', "select x(by=1)\n", "select x from\n", 'select x from ["a"](by=1)\n',
    ),
    MalformedFork: _in_program(
        "fork\n", "fork:\n", "fork x\n", "fork x in y:\n        1\n", "fork 3:\n        1\n",
        "fork x in y as:\n", "fork x in y as 1\n", "fork x as y\n", "fork x, y in z as w:\n",
        "fork 3 as x\n", "fork x in as y\n",
    ),
    MalformedYield: _in_program("yield\n", "yield:\n", "yield in\n", "yield return\n"),
    MalformedFor: _in_program(
        "for\n", "for x\n", "for x y\n", "for 1\n", "for x = 1\n", "for x in\n", "for x in:\n",
        "for x in y\n", "for x, y in z:\n", "for x of y:\n", "for x in y as z:\n",
    ),
    MalformedIf: _in_program(
        "if\n", "if:\n", "if x\n", "if x = 1:\n", "if x then\n", "else:\n", "elif x:\n",
        'if x:\n        "a"\n    else x:\n', 'if x:\n        "a"\n    else\n',
        'if x:\n        "a"\n    elif:\n',
    ),
    UnboundedWhile: _in_program(
        "while x:\n", "while x\n", "while x up:\n", "while x up to y:\n", "while x up to:\n",
        "while x up 5:\n",
    ),
    MalformedWhile: _in_program("while\n", "while:\n", "while x up to 5\n", "while x up to 5 6\n"),
    MalformedLet: _in_program(
        "let\n", "let x\n", "let 1\n", "let x: int\n", "let x =\n", "let x == 1\n", "x\n", "x 1\n",
        "x =\n", "x.y = 1\n", "x[0] = 1\n", "x += \n", "x -= 1\n", "let x += 1\n", "x == 1\n",
    ),
    MalformedReturn: _in_program("return in\n", "return gen x\n", "return = 1\n", "return:\n"),
    ChainedComparison: _in_program("return 1 < 2 < 3\n", "return 1 == 2 == 3\n"),
    MalformedExpression: _in_program(
        "return (1\n", "return [1\n", "return [1 2]\n", "return f(1\n", "return x.\n",
        "return x.1\n", "return x[\n", "return x[1\n", "return 1 +\n", "return 1 *\n",
        "return not\n", "return a and\n", "return a or\n", "return -\n", "return 1 <\n",
        "return 1 in\n", "return 1 2\n", "return f(a=)\n", "return [,]\n", "return a not b\n",
        'return "a" "b"\n', "return (1 2)\n", "return ()\n", "return f(,)\n",
    ),
}  # fmt: skip
"""Texts that make each mistake; the first error class whose parser state matches names it."""

_LATER = re.compile(r"(match|call|inline|join|with)\b")


def explain(
    error: UnexpectedInput, text: str, start: str, source: Source, origin: Origin, parser: Lark
) -> WeftSyntaxError:
    """Return the named error of what lark could not read."""
    span = _span(error, text, source, origin)
    if isinstance(error, UnexpectedCharacters):
        return _unexpected_character(error, text, span, source)
    token = error.token  # type: ignore[attr-defined]
    later = _LATER.fullmatch(str(token))
    if later:
        return NotAvailableYet(statement=later.group(), span=span, source=source)
    kind = MalformedExpression if start == "expression" else _named(error, parser)
    return kind(found=_found(token.type, str(token)), span=span, source=source)


def _named(error: UnexpectedInput, parser: Lark) -> type[WeftSyntaxError]:
    named = error.match_examples(lambda text: parser.parse(text, start="file"), _examples())
    return named or UnexpectedText


@cache
def _examples() -> dict[type[WeftSyntaxError], list[str]]:
    return dict(EXAMPLES)


def _span(error: UnexpectedInput, text: str, source: Source, origin: Origin) -> Span:
    line, column = error.line, error.column
    token = getattr(error, "token", None)
    width = len(token) if token and not token.type.startswith(("_", "$")) else 1
    if token is not None and token.type in {"_NL", "$END", "_DEDENT"} or line < 1:
        line, column = _end_of_line_before(error, text)
    shift = origin[1] - 1 if line == 1 else 0
    place = (line + origin[0] - 1, column + shift)
    return Span(source.name, *place, place[0], place[1] + width)


def _end_of_line_before(error: UnexpectedInput, text: str) -> tuple[int, int]:
    """Return the place just after the last text before a line's or the text's end."""
    position = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    before = text[:position].rstrip()
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _found(kind: str, text: str) -> str:
    if kind in {"_NL", "$END", "_DEDENT"}:
        return "the end of the line"
    if kind == "_INDENT":
        return "an indented line"
    return f"`{text}`"


def _unexpected_character(
    error: UnexpectedCharacters, text: str, span: Span, source: Source
) -> WeftSyntaxError:
    rest = text[error.pos_in_stream or 0 :]
    later = _LATER.match(rest)
    if later:
        return NotAvailableYet(statement=later.group(), span=span, source=source)
    if rest[:1] in {'"', "'"}:
        return UnclosedString(span=span, source=source)
    return StrangeCharacter(found=repr(rest[:1]), span=span, source=source)
