"""Reads .weft text into the AST: lark's LALR parser with blocks by indentation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree, UnexpectedInput
from lark.exceptions import VisitError
from lark.indenter import Indenter

from ...ir.diagnostics import WeftError
from ...ir.saved_grammar import parser_of
from ...ir.source import Source, Span
from .. import ast
from ..faults import Faults
from .builder import build
from .mistakes import explain
from .strings import Origin
from .syntax_errors import NumberTooLong, TooDeep, UnevenIndentation


def parse(source: Source, faults: Faults | None = None) -> ast.File:
    """Parse a .weft source; raises a WeftSyntaxError that says where and why it does not parse.

    `faults` hears of files named by types that cannot be read; without it, the first one raises.
    """
    return _read(source.text + "\n", "file", source, (1, 1), faults)


def parse_text(text: str, name: str = "<text>") -> ast.File:
    """Parse a text that has no file."""
    return parse(Source(name, text))


def parse_expression(text: str, source: Source, origin: Origin = (1, 1)) -> ast.Expression:
    """Parse one expression, which stands in `source` at `origin`."""
    return _read(text, "expression", source, origin)


def _read(
    text: str, start: str, source: Source, origin: Origin, faults: Faults | None = None
) -> Any:
    tree = Tree[Token](start, [])
    try:
        tree = lark().parse(text, start=start)
        return build(
            tree,
            source,
            origin,
            lambda inner, place: parse_expression(inner, source, place),
            faults or Faults(),
        )
    except UnexpectedInput as error:
        raise explain(error, text, start, source, origin, lark()) from None
    except UnevenIndentation as error:
        raise error.moved(source, origin) from None
    except VisitError as error:
        raise _of_building(error, tree, source, origin) from None
    except RecursionError:
        raise TooDeep(span=_deepest(tree, source, origin), source=source) from None


def _of_building(error: VisitError, tree: Tree[Token], source: Source, origin: Origin) -> Exception:
    """Return what went wrong while the AST was made of a text that parses."""
    cause = error.orig_exc
    if isinstance(cause, RecursionError):
        return TooDeep(span=_deepest(tree, source, origin), source=source)
    if isinstance(cause, ValueError) and isinstance(error.obj, Tree):  # Python's limit of digits
        return NumberTooLong(span=_start(error.obj, source, origin), source=source)
    return cause if isinstance(cause, WeftError) else error


def _deepest(tree: Tree[Token], source: Source, origin: Origin) -> Span:
    """Return the first line of what is nested most; a walk without recursion."""
    found, depth = tree, 0
    waiting = [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        if level > depth and not node.meta.empty:
            found, depth = node, level
        waiting += [(child, level + 1) for child in node.children if isinstance(child, Tree)]
    return _start(found, source, origin)


def _start(node: Tree[Token], source: Source, origin: Origin) -> Span:
    """Return the first character of a node."""
    at = (1, 1) if node.meta.empty else (node.meta.line, node.meta.column)
    line, column = at[0] + origin[0] - 1, at[1] + (origin[1] - 1 if at[0] == 1 else 0)
    return Span(source.name, line, column, line, column + 1)


@cache
def lark() -> Lark:
    """Return the parser of the grammar, built once."""
    return parser_of(
        Path(__file__).parent / "grammar.lark",
        start=["file", "expression"],
        postlex=_Blocks(),
        propagate_positions=True,
        maybe_placeholders=True,
    )


class _Blocks(Indenter):
    """Turns indentation into _INDENT and _DEDENT."""

    @property
    def NL_type(self) -> str:
        return "_NL"

    @property
    def OPEN_PAREN_types(self) -> list[str]:
        return ["LPAR", "LSQB"]

    @property
    def CLOSE_PAREN_types(self) -> list[str]:
        return ["RPAR", "RSQB"]

    @property
    def INDENT_type(self) -> str:
        return "_INDENT"

    @property
    def DEDENT_type(self) -> str:
        return "_DEDENT"

    @property
    def tab_len(self) -> int:
        return 8

    def handle_NL(self, token: Token) -> Iterator[Token]:
        """Check that a dedent returns to a level in use, then let lark count."""
        if "\n" not in token:  # a comment behind an expression
            return iter(())
        if self.paren_level == 0:
            text = token.rsplit("\n", 1)[1]
            width = text.count(" ") + text.count("\t") * self.tab_len
            if width < self.indent_level[-1] and width not in self.indent_level:
                raise UnevenIndentation.at(token.end_line or 1, token.end_column or 1)
        return super().handle_NL(token)
