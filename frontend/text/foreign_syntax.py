"""What other languages have and weft has not: known by its words, told with what to write."""

from __future__ import annotations

import re

from lark import UnexpectedInput

from ...ir.diagnostics import WeftSyntaxError
from ...ir.source import Source, Span
from .brackets import opened_at
from .syntax_errors import Comprehension, PrefixedString


class Foreign(WeftSyntaxError):
    """A statement or an expression of another language."""

    template = "weft has no {what}"


_FAILURE = "a tool's failure is a value: match what it returned, with case error e:"
_PROGRAM = "a program begins so: program NAME(question: str) -> str:"
_RECORD = "a record reads: record NAME: and, indented below, FIELD: TYPE"
_TOOL = "a tool is a Python function: tool NAME(text: str) -> str, in a file of --tools"

STATEMENTS = {
    "break": "end a while by its condition, or put the rest of the loop's body under an if",
    "continue": "put the rest of the loop's body under an if",
    "pass": "leave the block out, with the line that opens it",
    "try": _FAILURE, "except": _FAILURE, "finally": _FAILURE,
    "raise": "return a value that says so; a tool may raise",
    "assert": "return early under an if, or hold the value to a type",
    "def": _PROGRAM, "function": _PROGRAM, "class": _RECORD, "struct": _RECORD,
    "import": _TOOL, "async": "leave it out: branches run side by side anyway",
    "del": "leave it out: what nothing reads again is freed",
    "switch": 'match VALUE: and, indented below, case "a":',
    "var": "let NAME = VALUE", "const": "let NAME = VALUE", "elseif": "elif CONDITION:",
}  # fmt: skip
"""Words that begin statements elsewhere, and what to write in their place."""

_GENERATES = {"_GEN", "_SELECT", "_FORK"}


def foreign(
    error: UnexpectedInput, text: str, span: Span, source: Source
) -> WeftSyntaxError | None:
    """Return the error of what is right in another language, if that is what stands there."""
    token, before = error.token, text[: error.pos_in_stream]  # type: ignore[attr-defined]
    line = before.rpartition("\n")[2]
    if token.type in {"STRING", "LONG_STRING"} and re.search(r"\b[fFrRbBuU]{1,2}$", before):
        return PrefixedString(span=span, source=source)
    if token.type == "_FOR" and re.search(r"[\[(][^\])]*\S\s*$", line):
        return Comprehension(span=span, source=source)
    found = _expression(token.type, str(token), line, text, len(before))
    if found is not None:
        return Foreign(what=found[0], hint=found[1], span=span, source=source)
    return _statement(span, source)


def _expression(
    kind: str, token: str, line: str, text: str, position: int
) -> tuple[str, str] | None:
    """Return what an expression of another language is, and what to write in its place."""
    opening = opened_at(text, position)
    if kind == "_IF" and line.strip() == "else":
        return "`else if`", "write elif CONDITION:"
    if kind == "_IF" and re.search(r"""[\w"')\]]\s*$""", line) and not re.match(r"\s*case\b", line):
        return "conditional expression", "write if and else as statements"
    if re.search(r"\blambda\s*$", line):
        return "`lambda`", "bind what it would give: let NAME = VALUE; a tool can do more"
    if token == ":" and opening is not None and text[opening] == "[" and "[" in line:
        return "slices", "x[0] takes one element; a tool can take more"
    if token == "," and _tuple_opens(text, opening):
        return "tuples", "write a list: [a, b]"
    if token == "is" and line.strip():
        return "`is`", "compare with =="
    if token == "*" and line.endswith("*"):
        return "`**`", "write x * x"
    if token == "=" and opening is None and re.match(r"\s*(if|elif|while)\b", line):
        return "`=` in a condition", "compare with =="
    if kind in _GENERATES and line.rstrip().endswith("="):
        return f"{token} as a value", f"it binds its name itself: {token} NAME ..."
    return None


def _tuple_opens(text: str, opening: int | None) -> bool:
    """Whether a parenthesis that is no call's begins a value."""
    if opening is None or text[opening] != "(":
        return False
    before = text[:opening].rpartition("\n")[2]
    return re.search(r"(=|[\[(,+]|\b(return|yield|in|case|and|or|not))\s*$", before) is not None


def _statement(span: Span, source: Source) -> Foreign | None:
    """Return the error of a line that begins with a word of another language, and binds none."""
    first = re.match(r"\s*(\w+)\b(?!\s*(?:[-+*/]?=|\())", source.line(span.line))
    if first is None or first[1] not in STATEMENTS:
        return None
    column = first.start(1) + 1
    place = Span(source.name, span.line, column, span.line, column + len(first[1]))
    return Foreign(what=f"`{first[1]}`", hint=STATEMENTS[first[1]], span=place, source=source)
