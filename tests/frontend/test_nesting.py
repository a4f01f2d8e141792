"""Blocks in one another: no more of them than the compiler's walks can reach."""

from functools import partial

import pytest
from weft.compiler import Compilation
from weft.frontend.semantics.nesting import MOST_NESTED, check_nesting
from weft.frontend.text.parser import parse_text
from weft.frontend.text.syntax_errors import TooDeep


def blocks(head: str, count: int) -> str:
    """Return a program with so many blocks in one another."""
    lines = [*(head.format(number) for number in range(count)), '"a"']
    body = "".join("    " * by + line + "\n" for by, line in enumerate(lines, 1))
    return f"program p(t: str, n: int, xs: list[str]) -> str:\n{body}    return t\n"


def elifs(count: int) -> str:
    """Return a program with an `if` of so many alternatives."""
    heads = ["if n > 0:", *(f"elif n > {number}:" for number in range(1, count))]
    body = "".join(f'    {head}\n        "a"\n' for head in heads)
    return f"program p(t: str, n: int) -> str:\n{body}    return t\n"


def cases(count: int) -> str:
    """Return a program with a `match` of so many cases."""
    body = "".join(f'        case "{number}":\n            "a"\n' for number in range(count))
    return f"program p(t: str) -> str:\n    match t:\n{body}    return t\n"


PROGRAMS = {
    "if": partial(blocks, "if n > {}:"),
    "for": partial(blocks, "for x{} in xs:"),
    "fork": partial(blocks, "fork 1 as ys{}:"),
    "while": partial(blocks, "while n > {} up to 2:"),
    "message": partial(blocks, "user:"),
    "with": partial(blocks, "with priority {}:"),
    "elif": elifs,
    "case": cases,
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_one_block_more_than_a_hundred_is_told_with_its_place(kind):
    make = PROGRAMS[kind]
    check_nesting(parse_text(make(MOST_NESTED)))
    text = make(MOST_NESTED + 1)
    with pytest.raises(TooDeep) as caught:
        check_nesting(parse_text(text))
    assert caught.value.span is not None
    assert caught.value.span.line == text.count("\n") - 1, "the innermost text's line"


def test_of_two_places_the_first_is_told():
    head, body, end = blocks("if n > {}:", MOST_NESTED + 1).partition("    if n > 0:\n")
    tower = (body + end).removesuffix("    return t\n")
    with pytest.raises(TooDeep) as caught:
        check_nesting(parse_text(head + tower + tower + "    return t\n"))
    assert caught.value.span is not None and caught.value.span.line == MOST_NESTED + 3


def test_a_hundred_blocks_are_compiled():
    assert Compilation(PROGRAMS["if"](MOST_NESTED)).plan
