"""Reads on behind a syntax error: all of a file's are found, each told once.

A line that cannot be read is exchanged for one that can be and does nothing; where that does not
help, the declaration around it is left out. Only the errors are wanted: the syntax tree of a text
with such lines is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...ir.diagnostics import WeftError
from ...ir.source import Source
from .. import ast
from ..faults import Faults, in_order
from .brackets import without_strings
from .parser import parse
from .syntax_errors import MissingBlock, UnclosedBracket, UnevenIndentation, UnexpectedIndentation

MOST = 50
"""Errors of one file after which it is read no further."""

_COMMENT = re.compile(r"#[^\"]*$")
_DECLARATION = re.compile(r"(record|program|tool|pure)\b")


def parse_all(source: Source) -> tuple[ast.File | None, list[WeftError]]:
    """Return a source's syntax tree, None where it does not parse, and all errors of its syntax
    and of the files that its types name."""
    faults, lines, mended = Faults(gather=True), list(source.lines), set[int]()
    while True:
        text = Source(source.name, "\n".join(lines))
        try:
            file = parse(text, faults)
        except WeftError as error:
            if error.span is None:
                return None, [error]
            line = error.span.line
            if line not in mended:
                faults.report(error.with_source(source))
            if len(faults.found) == MOST or not _mend(lines, error, line in mended):
                return None, in_order(faults.found)
            mended.add(line)
        else:
            return None if mended else file, faults.found


def _mend(lines: list[str], error: WeftError, again: bool) -> bool:
    """Exchange what does not parse; return whether there was anything."""
    assert error.span is not None
    line = min(error.span.line, len(lines)) - 1
    opening = _left_open(lines, line)
    if opening is not None:
        return _leave_out(lines, opening)
    if isinstance(error, UnclosedBracket) and error.notes and _indent(lines[line]) and not again:
        assert error.notes[0].span is not None
        goes_on = error.notes[0].span.line - 1
        goes_on += _indent(lines[goes_on]) > _indent(lines[line])
        lines[line + 1 : goes_on] = [""] * (goes_on - line - 1)
        lines[line] = _harmless(lines, line)
        return True
    if again or isinstance(error, UnevenIndentation) or _left_open(lines, line + 1) is not None:
        return _leave_out(lines, line)
    if isinstance(error, UnexpectedIndentation):
        end = _end(lines, line, _indent(lines[line]) - 1)
        lines[line:end] = [""] * (end - line)
        return True
    if isinstance(error, MissingBlock):
        behind = error.span.column > len(lines[line].rstrip())
        return _close(lines, line if behind else line - 1)
    lines[line] = _harmless(lines, line)
    return True


def _close(lines: list[str], opener: int) -> bool:
    """Leave out the last line up to `opener` that opens a block, which is not there; below a
    declaration's header also what may have been meant as its block."""
    while opener and not _COMMENT.sub("", lines[opener]).rstrip().endswith(":"):
        opener -= 1
    if _indent(lines[opener]):
        lines[opener] = _harmless(lines, opener)
        return True
    end = opener + 1
    while end < len(lines) and not _DECLARATION.match(lines[end]):
        end += 1
    lines[opener:end] = [""] * (end - opener)
    return True


def _left_open(lines: Sequence[str], end: int) -> int | None:
    """Return the line of a bracket or a long string that is open where line `end` begins."""
    rest = without_strings("\n".join(lines[:end]))
    opened: list[int] = []
    for number, line in enumerate(rest.split("\n")):
        if '"""' in line:
            return number
        for character in line:
            if character in "([":
                opened.append(number)
            elif character in ")]" and opened:
                opened.pop()
    return opened[0] if opened else None


def _leave_out(lines: list[str], line: int) -> bool:
    """Leave out the declaration that a line stands in; return whether anything was there."""
    start = line
    while start and not (lines[start].strip() and _indent(lines[start]) == 0):
        start -= 1
    end = _end(lines, start, 0)
    there = any(text.strip() for text in lines[start:end])
    lines[start:end] = [""] * (end - start)
    return there


def _end(lines: Sequence[str], start: int, outer: int) -> int:
    """Return the first line behind `start` that stands no deeper than `outer`."""
    inside = (
        number
        for number in range(start + 1, len(lines))
        if lines[number].strip() and _indent(lines[number]) <= outer
    )
    return next(inside, len(lines))


def _harmless(lines: Sequence[str], line: int) -> str:
    """Return a line that may stand in a line's place: it opens a block if that one does."""
    text, indent = lines[line].strip(), _indent(lines[line])
    below = next((one for one in lines[line + 1 :] if one.strip()), "")
    opens = _indent(below) > indent
    if indent == 0:
        if not opens:
            return ""
        fields = re.match(r"\s+\w+\s*:\s*\w", below)
        return f"record broken_{line}:" if fields else f"program broken_{line}():"
    space = " " * indent
    if not opens:
        return f"{space}broken_{line}: str" if _in_record(lines, line) else f'{space}""'
    first = re.match(r"\w*", text)
    headers = {"case": "case _:", "match": "match 1:"}
    return space + headers.get(first[0] if first else "", "if true:")


def _in_record(lines: Sequence[str], line: int) -> bool:
    heads = (one for one in reversed(lines[:line]) if one.strip() and _indent(one) == 0)
    return next(heads, "").startswith("record")


def _indent(line: str) -> int:
    text = line.expandtabs(8)
    return len(text) - len(text.lstrip())
