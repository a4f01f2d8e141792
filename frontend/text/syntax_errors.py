"""Named syntax errors, one for each kind of mistake; `mistakes` finds which one a text makes."""

from __future__ import annotations

from ...ir.diagnostics import WeftSyntaxError
from ...ir.source import Source, Span
from .strings import Origin


class UnexpectedText(WeftSyntaxError):
    """A mistake that has no name of its own."""

    template = "{found} cannot stand here"


class TooDeep(WeftSyntaxError):
    """Blocks or expressions inside one another, more than can be read."""

    template = "this is nested too deeply to be read"
    hint = "bind a part with `let`, or build long sums and lists in a loop"


class NumberTooLong(WeftSyntaxError):
    """A number of thousands of digits."""

    template = "this number has more digits than can be read"


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


class UnclosedBracket(WeftSyntaxError):
    """A bracket without its partner: what follows, also on the next lines, stands inside it."""

    template = "`{bracket}` is never closed"
    hint = "close it with `{partner}`"


class UnopenedBracket(WeftSyntaxError):
    """A closing bracket where none of its kind is open."""

    template = "`{bracket}` {problem}"


class StrangeCharacter(WeftSyntaxError):
    """A character that no weft text has outside strings."""

    template = "the character {found} has no meaning here"


class MissingBlock(WeftSyntaxError):
    """A colon with nothing indented below it."""

    template = "an indented block is missing here"
    hint = "indent the statements below the colon by four spaces"


class BlockOnItsLine(WeftSyntaxError):
    """A block's first statement on the line that opens it."""

    template = "{found} stands on the line that opens its block"
    hint = "begin the block on the next line, indented by four spaces"


class UnexpectedIndentation(WeftSyntaxError):
    """An indented line below a line that opens no block."""

    template = "this line is indented, but the line above opens no block"
    hint = "the statements of a block begin at one column; a tab counts as eight spaces"


class ReservedWord(WeftSyntaxError):
    """A word of the language where only a name can stand."""

    template = "`{word}` is a word of the language and cannot be a name"
    hint = "take another one, such as `{word}_`"


class MalformedRecord(WeftSyntaxError):
    """A record that does not read."""

    template = "{found} does not fit a record"
    hint = "record Review:\n    score: int(1..10)"


class MalformedTool(WeftSyntaxError):
    """A tool declaration that does not read."""

    template = "{found} does not fit a tool"
    hint = "tool word_count(text: str) -> int"


class MalformedParameter(WeftSyntaxError):
    """A parameter list that does not read."""

    template = "{found} does not fit the parameters"
    hint = 'each parameter has a type, and may have a default: (essay: str, style: str = "plain")'


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


class MalformedText(WeftSyntaxError):
    """A string statement that goes on after its string."""

    template = "{found} does not fit a string statement"
    hint = 'a statement appends one string; put values into it: "Essay: {{essay}}"'


class MalformedGen(WeftSyntaxError):
    """A gen that does not read."""

    template = "{found} does not fit a gen"
    hint = 'gen NAME, gen NAME: TYPE, or gen NAME(max_tokens=20, stop="\\n"): TYPE'


class MalformedSelect(WeftSyntaxError):
    """A select that does not read."""

    template = "{found} does not fit a select"
    hint = 'select NAME from ["A", "B"], or select NAME(by="greedy") from LIST'


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


class UnknownStatement(WeftSyntaxError):
    """A line that begins with a word that begins no statement."""

    template = "`{word}` begins no statement"
    hint = "statements begin with: {words}; a string stands for itself"


class MalformedReturn(WeftSyntaxError):
    """A return that does not read."""

    template = "{found} does not fit a return"
    hint = "return VALUE"


class MalformedMatch(WeftSyntaxError):
    """A match or one of its cases that does not read."""

    template = "{found} does not fit a match"
    hint = 'match VALUE: and, indented, case "a" | "b":, case error e:, case value v:, case _:'


class UnknownPattern(WeftSyntaxError):
    """A pattern that no case has."""

    template = "`{pattern}` is no pattern"
    hint = 'a case is: case "a" | "b":, case 1:, case error e:, case value v:, or case _:'


class MalformedJoin(WeftSyntaxError):
    """A join that does not read."""

    template = "{found} does not fit a join"
    hint = "join best(by=points), or join best(by=points) as chosen"


class MalformedWith(WeftSyntaxError):
    """A with that does not read."""

    template = "{found} does not fit a with"
    hint = 'with adapter "name":, with client "name":, or with priority 2:'


class MalformedRun(WeftSyntaxError):
    """A call or inline of a program that does not read."""

    template = "{found} does not fit the call of a program"
    hint = "let x = call other(1), let x = inline other(1), or either alone on its line"


class ChainedComparison(WeftSyntaxError):
    """`a < b < c`."""

    template = "comparisons do not chain"
    hint = "write a < b and b < c"


class MalformedExpression(WeftSyntaxError):
    """An expression that breaks off or goes on where it cannot."""

    template = "{found} does not fit an expression"


class MalformedInterpolation(WeftSyntaxError):
    """Braces in a string that hold no expression."""

    template = "{found} does not fit an expression in braces"
    hint = 'values are inserted as they are: "Score: {{points}}"; doubled braces are text'


class PrefixedString(WeftSyntaxError):
    """A string with a letter before it, as Python's f"..."."""

    template = "a string has no letter before it"
    hint = 'values stand in the braces of any string: "Hello {{name}}"'


class Comprehension(WeftSyntaxError):
    """A loop inside a list or between parentheses."""

    template = "lists have no loops in them"
    hint = "build it in a loop: let found: list[str] = [], for x in xs:, found += [x]"


class MisplacedStatement(WeftSyntaxError):
    """A statement outside any program."""

    template = "{found} cannot stand outside a program"
    hint = "statements belong into a program: program NAME(parameters) -> TYPE:"
