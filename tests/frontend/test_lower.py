"""Lowering: the program IR of every example, and what each statement becomes."""

from pathlib import Path

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.open import open_program
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.errors import WrongOption
from weft.frontend.text.parser import parse, parse_text
from weft.ir.core import Module
from weft.ir.parser import parse_module
from weft.ir.source import Source
from weft.ir.types import ANY
from weft.ir.verifier import verify

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.weft"))


def lowered(text: str) -> Module:
    file = parse_text(text)
    check(file)
    module = lower(file)
    verify(module, ("program",))
    return module


def body(module: Module, name: str = "p") -> list[str]:
    return [operation.name for operation in module.symbol(name).regions[0].operations]


def in_program(*lines: str, head: str = "program p(n: int, xs: list[str]):") -> Module:
    return lowered("\n".join([head, *("    " + line for line in lines)]) + "\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_lower_as_recorded(path, golden):
    file = parse(Source(str(path), path.read_text()))
    assert check(file) == []
    module = lower(file)
    verify(module, ("program",))
    assert parse_module(str(module)) == module
    assert str(parse_module(str(module))) == str(module)
    golden(f"program/{path.stem}.txt", str(module))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_their_tools_beside_them(path):
    names = [tool.name for tool in parse(Source(str(path), path.read_text())).tools]
    assert sorted(open_program(path).tools) == sorted(names)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_operation_of_an_example_has_a_span(path):
    module = lower(parse(Source(str(path), path.read_text())))
    lines = path.read_text().splitlines()
    for operation in module.walk():
        assert operation.span is not None, operation.name
        assert 1 <= operation.span.line <= len(lines)
        assert operation.span.column <= len(lines[operation.span.line - 1])


def test_a_loop_carries_the_stream_and_what_it_assigns():
    module = in_program("let t = 0", "for x in xs:", '    "{x}"', "    t += 1", '"{t}"')
    loop = next(item for item in module.walk() if item.name == "program.for")
    assert [str(value.type) for value in loop.operands] == ["list<str>", "stream", "int"]
    assert [str(value.type) for value in loop.results] == ["stream", "int"]


def test_a_loop_without_text_carries_no_stream():
    module = in_program("let t = 0", "for x in xs:", "    t += len(x)", '"{t}"')
    loop = next(item for item in module.walk() if item.name == "program.for")
    assert [str(value.type) for value in loop.results] == ["int"]


def test_an_if_merges_names_that_both_branches_bind():
    module = in_program(
        "if n > 1:", '    let a = "many"', "else:", '    let a = "one"', "    let b = 2", '"{a}"'
    )
    merged = next(item for item in module.walk() if item.name == "program.if")
    assert [value.type.name for value in merged.results] == ["str"]


def test_a_branch_that_returns_leaves_the_other_ones_names():
    module = in_program("if n > 1:", "    return", "else:", "    let a = 2", '"{a}"')
    merged = next(item for item in module.walk() if item.name == "program.if")
    assert [region.operations[-1].name for region in merged.regions] == [
        "program.return",
        "program.yield",
    ]
    assert [value.type.name for value in merged.results] == ["int"]


def test_both_branches_return():
    module = in_program("if n > 1:", "    return", "else:", "    return", '"never"')
    assert body(module)[-1] == "program.if"


def test_and_runs_its_right_side_only_where_it_decides():
    module = in_program('if n > 1 and xs[0] == "a":', '    "yes"')
    first = next(item for item in module.walk() if item.name == "program.if")
    inside = [operation.name for operation in first.regions[0].operations]
    assert "program.index" in inside and inside[-1] == "program.yield"
    assert [operation.name for operation in first.regions[1].operations] == ["program.yield"]


@pytest.mark.parametrize(
    ("type", "budget"),
    [
        ("str", 128), ("int", 8), ("int(1..10)", 8), ("bool", 8), ('choice["a", "b"]', 32),
        ('regex "[a-z]+"', 64), ("R", 64 + 24 + 8 + 32), ("str(max_tokens=5)", 5),
        ("list[int]", 8 + 4 * 8),
    ],
)  # fmt: skip
def test_every_gen_has_a_token_budget(type, budget):
    record = "record R:\n    a: str(max_tokens=24)\n    b: int(1..5)\n    c: str\n\n"
    module = lowered(record + f"program p():\n    gen x: {type}\n")
    gen = next(item for item in module.walk() if item.name == "program.gen")
    assert gen["max_tokens"] == budget


@pytest.mark.parametrize(
    "type", ["int(1..9)", 'choice["a"]', 'regex "a+"', "list[int(1..9)]", "json R", "list[R]"]
)
def test_parameters_may_be_constrained(type):
    lowered(f'record R:\n    a: int(1..9)\n\nprogram p(x: {type}):\n    "{{x}}"\n')


def test_options_become_attributes_in_one_order():
    module = in_program('gen x(seed=3, stop=["a", "b"], temperature=0.5, top_p=0.9, max_tokens=4)')
    gen = next(item for item in module.walk() if item.name == "program.gen")
    assert [key for key, _ in gen.attributes] == [
        "name", "type", "max_tokens", "stop", "temperature", "top_p", "seed",
    ]  # fmt: skip


def test_a_temperature_that_kernels_cannot_take_is_refused():
    in_program("gen x(temperature=1e30)")
    with pytest.raises(WrongOption, match="`temperature` is a number from 0 to 1e30"):
        in_program("gen x(temperature=1e39)")


def test_values_of_every_kind():
    module = lowered(
        "record R:\n    a: str\n    b: list[int]\n\n"
        "tool f(x: str, n: int = 3) -> R timeout 1.5\n\n"
        "program p(n: int, none_given: str = \"x\") -> R:\n"
        "    let made = R(b=[n, 2], a=\"{n}\")\n"
        "    let called = f(made.a.upper())\n"
        "    f(x=called.a, n=-n)\n"
        "    let pick = [made, called][0]\n"
        "    let t = sum(pick.b) + max(1, n) * len(str(n)) // 2 % 3\n"
        "    if not (t < 3.5 or n in pick.b) and none_given not in \"abc\":\n"
        "        return called\n"
        "    return pick\n"
    )  # fmt: skip
    kinds = {operation.name for operation in module.walk()}
    assert kinds >= {
        "program.make_record", "program.call_tool", "program.method", "program.field",
        "program.index", "program.list", "program.builtin", "program.binary", "program.unary",
        "program.format",
    }  # fmt: skip
    assert parse_module(str(module)) == module


def test_none_is_a_constant():
    module = lowered('tool f() \nprogram p():\n    let x = none\n    let y = f()\n    "{x}{y}"\n')
    constant = next(item for item in module.walk() if item.name == "program.constant")
    assert constant["value"] is None
    assert parse_module(str(module)) == module


def test_a_method_of_a_value_of_any_type_has_any_type():
    module = lowered("program p():\n    fork x in [] as xs:\n        yield x.upper().lower()\n")
    methods = [item.result.type for item in module.walk() if item.name == "program.method"]
    assert methods == [ANY, ANY]


def test_several_programs_share_one_set_of_names():
    module = lowered('program a():\n    "x"\n\nprogram b():\n    "y"\n')
    assert body(module, "a") == body(module, "b") == ["program.literal", "program.return"]


def texts_of(module: Module) -> list[str]:
    """Return a program's texts, forks and calls in their order."""
    return [
        str(operation.attribute("text", operation.kind))
        for operation in module.walk()
        if operation.kind in {"literal", "fork", "gen", "score"}
    ]


@pytest.mark.parametrize(
    "lines, expected",
    {
        "a space": (['"Say: "', "fork 2 as f:", "    gen g", "    yield g", '"So"', "gen h"],
                    ["Say:", "fork", " ", "gen", " ", "So", "gen"]),
        "forks in one another": (
            ['" "', "fork 2 as f:", "    fork 2 as e:", "        gen g", "        yield g",
             "    yield e"],
            ["fork", "fork", " ", "gen", " ", " "]),
        "no space": (['"Say:"', "fork 2 as f:", "    gen g", "    yield g"],
                     ["Say:", "fork", "gen"]),
        "a score has read it": (
            ['"Say: "', 'let v = score("x")', "fork 2 as f:", "    gen g", "    yield g"],
            ["Say: ", "score", "fork", "gen"]),
        "a branch of an if has read it": (
            ['"Say: "', "if n > 1:", '    let v = score("x")', "fork 2 as f:", "    gen g",
             "    yield g"],
            ["Say: ", "score", "fork", "gen"]),
        "a text without one before a space": (
            ['"Say: {n}"', "fork 2 as f:", "    gen g", "    yield g"],
            ["Say: ", "fork", "gen"]),
    }.values(),
)  # fmt: skip
def test_a_space_before_a_fork_begins_what_follows(lines, expected):
    assert texts_of(in_program(*lines)) == expected


def test_a_joined_branch_begins_with_the_space():
    lines = ['"Say: "', "fork 2 as f:", "    gen g", "    yield 1", "join best(by=f)", "gen h"]
    module = in_program(*lines)
    assert texts_of(module) == ["Say:", "fork", " ", "gen", "gen"]
    scored = in_program(*lines[:4], 'let v = score("x")', *lines[4:])
    assert texts_of(scored) == ["Say:", "fork", " ", "gen", " ", "score", "gen"]
    (join,) = [each for each in module.walk() if each.kind == "join"]
    gens = [each for each in module.walk() if each.kind == "gen"]
    assert gens[-1].operands[0] == join.results[0]
