"""The tool of checked_tool.weft: what it raises is a value that the program looks at."""

from __future__ import annotations

import ast
import operator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def work_out(expression: str) -> int:
    """Return the value of sums, differences and products of whole numbers."""
    return _value(ast.parse(expression.strip(), mode="eval").body)


def _value(node: ast.AST) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError(f"{ast.unparse(node)} is neither a number nor a sum")
