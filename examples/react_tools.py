"""The tool of react.weft."""

import operator
import re

_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def calc(expression: str) -> str:
    """Return the value of `a+b`, `a-b` or `a*b`, or what is wrong with the expression."""
    match = re.fullmatch(r"\s*(-?\d{1,9})\s*([-+*])\s*(-?\d{1,9})\s*", expression)
    if match is None:
        return "error: write two numbers with +, - or * between them"
    left, sign, right = match.groups()
    return str(_SIGNS[sign](int(left), int(right)))
