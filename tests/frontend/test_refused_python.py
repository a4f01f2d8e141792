"""What Python can say and a program cannot: each is refused at its line, with what to write."""

# ruff: noqa: B006, B007, F401, F841
# pyright: reportUndefinedVariable=false
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from weft.frontend.open import programs_in
from weft.frontend.python.embedded import between, limit, matching, program, schema, tool
from weft.frontend.semantics.checker import check
from weft.frontend.text.syntax_errors import TooDeep
from weft.ir.diagnostics import WeftError

THINGS = [1, {2}]


def unbounded(s, x: str):
    while x == "":
        s += x


def comprehension(s, xs: list[str]):
    s += " ".join([x for x in xs])


def formatted(s, x: float):
    s += f"{x:.2f}"


def power(s, x: int):
    s += f"{x**2}"


def bits(s, x: int):
    s += f"{x | 2}"


def unused(s):
    s + "text"


def plus(s, x: int):
    s += f"{+x}"


def unnamed(s):
    s.gen(max_tokens=3)


def imports(s):
    import os

    s += "a"


def untyped(s, x):
    s += x


def no_stream():
    return 1


def inner_function(s):
    def f():
        return 1

    s += "a"


def wrong_with(s):
    with open("x"):
        s += "a"


def chained(s, n: int):
    if 1 < n < 3:
        s += "a"


def sliced(s, xs: list[str]):
    s += xs[1:][0]


def breaks(s, xs: list[str]):
    for x in xs:
        break


def unknown_name(s, essay: str):
    s.user(f"Essay: {esay}")  # noqa: F821


def unknown_stream_method(s):
    s.says("a")


def tuple_target(s):
    a, b = 1, 2


def several(s, *xs: str):
    s += "a"


def any_names(s, **xs: str):
    s += "a"


def broken_annotation(s, xs: "list["):  # type: ignore  # noqa: F722
    s += "a"


def up_to_true(s, n: int):
    while n > 1 and s.up_to(True):
        s += "a"


def other_things(s):
    for x in THINGS:
        s += f"{x}"


def caught(s, x: str):
    try:
        s += x
    except ValueError:
        s += "b"


def goes_on(s, xs: list[str]):
    for x in xs:
        continue


def chosen(s, x: str):
    y = x if x else "b"


def part(s, xs: list[str]):
    xs[0] = "b"


def enumerated(s, xs: list[str]):
    for i, x in enumerate(xs):
        s += x


def otherwise(s, xs: list[str]):
    for x in xs:
        s += x
    else:
        s += "none"


def own_text(s):
    s += s.text


def own_helper(s, x: str):
    s += plain(x)


def dict_outside(s):
    s += PROMPTS["a"]


def keyword_of_a_method(s, x: str):
    s += x.replace(old="a", new="b")


def held_as_another(s):
    y = s.gen(Annotated[int, matching("[a-z]+")])


def held_by_true(s):
    y = s.gen(between(True, 3))


def held_twice(s):
    y = s.gen(Annotated[int, between(1, 9), between(2, 300)])


def limited_twice(s):
    y = s.gen(Annotated[str, limit(max_tokens=5), limit(max_tokens=9)])


def list_held(s):
    y = s.gen(Annotated[list[int], between(1, 9)])


def held_to_nothing(s):
    y = s.gen(schema())


ENDLESS: list = []
ENDLESS.append(ENDLESS)


def endless(s):
    s += f"{ENDLESS}"


def odd_type(s, x: str):
    y = s.gen(Path)


def optional(s, x: str | None):
    s += "a"


def guarded(s, x: str):
    match x:
        case "a" if x:
            s += x


def plain(x: str) -> str:
    return x


PROMPTS = {"a": "b"}


def deep_list() -> list:
    found: list = []
    for _ in range(3000):
        found = [found]
    return found


DEEP_LIST = deep_list()


def deep_outside(s):
    for x in DEEP_LIST:
        s += "a"


REFUSED = [
    caught, goes_on, chosen, part, enumerated, otherwise, own_text, own_helper,
    dict_outside, deep_outside, keyword_of_a_method, odd_type, optional, guarded,
    unbounded, comprehension, formatted, power, bits, unused, plus, unnamed, imports, untyped,
    no_stream, inner_function,
    wrong_with, chained, sliced, breaks, unknown_name, unknown_stream_method, tuple_target,
    several, any_names, broken_annotation, up_to_true, other_things, held_as_another,
    held_to_nothing, endless, held_by_true, held_twice, limited_twice, list_held,
]  # fmt: skip


def test_refused_python(golden):
    shown = []
    for function in REFUSED:
        with pytest.raises(WeftError) as caught:
            check(program(function).file)
        error = caught.value
        first = function.__code__.co_firstlineno
        relative = error.render().replace(f"{Path(error.span.source)}:{error.span.line}", "line")
        assert error.span.line >= first and "^" in error.render()
        body = [line for line in relative.splitlines() if " | " not in line]
        caret = error.render().splitlines()[1].partition(" | ")[2].strip()
        shown.append(f"== {function.__name__}: {type(error).__name__}\n{caret}\n" + "\n".join(body))
    golden("errors/python.txt", "\n\n".join(shown) + "\n")


@pytest.mark.parametrize("count", [250, 1500])
def test_a_sum_deeper_than_can_be_read_has_its_place(count, tmp_path):
    file = tmp_path / f"deep_{count}.py"
    total = "+".join(["1"] * count)
    file.write_text(f"import weft\n\n@weft.program\ndef p(s):\n    s += f'{{{total}}}'\n")
    (read,) = programs_in(file)
    if count == 250:
        assert check(read.file) == []
        return
    with pytest.raises(TooDeep, match=r"deep_1500.py:5:\d+: syntax error"):
        check(read.file)
