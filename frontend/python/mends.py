"""What Python has and a program has not: how an error names it, and what to write in its place."""

from __future__ import annotations

import ast as python
from typing import Any

from ...ir.source import Span
from .source import NotInPython

_COMPREHENSION = (
    "a comprehension", "build it in a loop: found: list[str] = [], for x in xs:, found += [x]"
)  # fmt: skip
_TOOL = "a function under @weft.tool can do it"
_PART = "values do not change: bind a name to a new list or record"

_MENDS: dict[type[python.AST], tuple[str, str]] = {
    python.ListComp: _COMPREHENSION, python.GeneratorExp: _COMPREHENSION,
    python.DictComp: _COMPREHENSION, python.SetComp: _COMPREHENSION,
    python.Lambda: ("a lambda", _TOOL),
    python.Dict: ("a dict", "a record is a dataclass: Review(strength=\"clear\", score=7)"),
    python.Set: ("a set", "use a list"),
    python.Tuple: ("a tuple", "use a list, or a dataclass"),
    python.IfExp: ("a conditional expression", "write if and else as statements"),
    python.Await: ("`await`", "leave it out: what needs a value waits for it by itself"),
    python.Yield: ("`yield`", "a branch and a program give their value with return"),
    python.NamedExpr: ("`:=`", "bind the name on a line above"),
    python.Subscript: ("a slice", "x[0] takes one element; " + _TOOL),
    python.Starred: ("`*`", "give the arguments one by one"),
    python.FormattedValue: ("a format in an f-string", _TOOL),
    python.Constant: ("this constant", "values are strings, numbers, True, False, None and lists"),
    python.Import: ("`import`", "import above the program; " + _TOOL),
    python.ImportFrom: ("`import`", "import above the program; " + _TOOL),
    python.Try: (
        "`try`", "a tool's failure is a value: match what it returned, with case Exception() as e:"
    ),
    python.Raise: ("`raise`", "return a value that says so; a tool may raise"),
    python.Assert: ("`assert`", "return early under an if, or hold the value to a type"),
    python.Break: ("`break`", "end a while by its condition: while not done and s.up_to(5):"),
    python.Continue: ("`continue`", "put the rest of the loop's body under an if"),
    python.Delete: ("`del`", "leave it out: what nothing reads again is freed"),
    python.Global: ("`global`", "what is outside are constants; return what is new"),
    python.Nonlocal: ("`nonlocal`", "a branch changes nothing outside it; return what is new"),
    python.ClassDef: ("`class`", "declare the dataclass above the program"),
    python.AnnAssign: ("a name without a value", "give it one: found: list[str] = []"),
    python.AsyncFunctionDef: ("`async def`", "write `def`: branches run side by side anyway"),
    python.AsyncFor: ("`async for`", "write `for`, or fork for branches side by side"),
    python.AsyncWith: ("`async with`", "write `with`"),
}  # fmt: skip


def refused(node: python.AST, span: Span) -> NotInPython:
    """Return the error of a piece of Python that a program cannot say."""
    what, hint = _mend(node)
    return NotInPython(what=what, hint=hint, span=span)


def _mend(node: Any) -> tuple[str, str]:
    match node:
        case python.Expr(value=python.Constant()):
            return "a string without a stream", 's += "text" appends it'
        case python.Expr(
            value=python.BinOp() | python.UnaryOp() | python.BoolOp() | python.Compare()
        ):
            return "a value that nothing uses", 's += "text" appends; bind a value: total = a + b'
        case python.Expr(value=value):
            return _mend(value)
        case python.UnaryOp(op=python.UAdd()):
            return "`+` before a value", "leave it out"
        case python.BinOp(op=python.Pow()):
            return "`**`", "write x * x"
        case python.BinOp() | python.UnaryOp():
            return "an operator on bits or matrices", "numbers take + - * / // %; " + _TOOL
        case python.Assign(targets=[_, _, *_]):
            return "one value for several names", "bind one name a line"
        case python.Assign(targets=[python.Tuple() | python.List()]):
            return "unpacking", "bind the whole, and take its parts: first = pair[0]"
        case python.Assign() | python.AugAssign():
            return "a change of a part of a value", _PART
        case python.For(orelse=[_, *_]) | python.While(orelse=[_, *_]):
            return "`else` of a loop", "write it below the loop, under an if"
        case python.For():
            return "a loop over several names", "take the parts inside: for i in range(len(xs)):"
    unnamed = (f"this ({type(node).__name__})", _TOOL)
    return _MENDS.get(type(node), unnamed)
