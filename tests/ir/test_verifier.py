"""The verifier: what breaks a rule is refused, with the operation shown."""

import pytest
from weft.ir.core import Module, Names, Operation, Region, Symbol, Term, Value, make
from weft.ir.parser import parse_module
from weft.ir.types import INT, STR, STREAM
from weft.ir.verifier import InvalidIR, specifications, verify

FUNC = "program.func name = @p, parameters = [], returns = none { |%s: stream|\n"


def func(*lines: str) -> str:
    return FUNC + "\n".join(lines) + "\n}\n"


BROKEN = {
    "unknown operation": ("program.nothing", "no dialect has this operation"),
    "missing attribute": ("program.tool name = @f, returns = int", "'parameters' is missing"),
    "foreign attribute": (
        func("%t = program.literal %s, text = \"a\", colour = 1 : stream", "program.return"),
        "'colour' is not one of its own",
    ),
    "attribute twice": (
        func('%t = program.literal %s, text = "a", text = "b" : stream', "program.return"),
        "given twice",
    ),
    "too few operands": (
        func('%t = program.literal text = "a" : stream', "program.return"), "0 operands",
    ),
    "too many operands": (
        func('%t = program.literal %s, %s, text = "a" : stream', "program.return"), "2 operands",
    ),
    "too few results": (func("program.literal %s, text = \"a\""), "0 results"),
    "missing region": ("program.func name = @p, parameters = [], returns = none", "0 regions"),
    "terminator before the end": (
        func("program.return", "program.return"), "last in a region",
    ),
    "terminator at the top": ("program.return", "last in a region"),
    "a region without an end": (
        func('%t = program.literal %s, text = "a" : stream'), "ends in program.literal",
    ),
    "a stream as the value": (func("program.return %s"), "it returns a stream"),
    "a parameter that nothing takes": (
        func("program.return").replace("[]", '[{name = "x", type = str}]'), "declared with (str)",
    ),
    "a text that is none": (
        func("%t = program.literal %s, text = 3 : stream", "program.return"), "is a string",
    ),
    "a role that is none": (
        func('%t = program.begin %s, role = "tool" : stream', "program.return"), "not 'tool'",
    ),
    "an operator that is none": (
        func("%c = program.constant value = 2 : int",
             '%t = program.binary %c, %c, op = "**" : int', "program.return"), "not '**'",
    ),
    "a stream appended to twice": (
        func('%t = program.literal %s, text = "a" : stream',
             '%u = program.literal %s, text = "b" : stream', "program.return"),
        "appends to %s, which was appended to before",
    ),
    "a stream appended to on one path, and after it": (
        func("%c = program.constant value = true : bool", "program.if %c {",
             '%t = program.literal %s, text = "a" : stream', "program.yield", "} {",
             "program.return", "}", '%u = program.end %s, role = "user" : stream',
             "program.return"),
        "program.end appends to %s, which",
    ),
    "two functions of one name": (
        func("program.return") + func("program.return"), "program.func: @p is declared twice",
    ),
    "a loop without a bound": (
        func("program.while limit = -1 {", "%c = program.constant value = true : bool",
             "program.condition %c", "} {", "program.yield", "}", "program.return"), "not -1",
    ),
    **{
        f"a gen with {options}": (
            func(f'%t, %v = program.gen %s, name = "v", {options} : stream, int', "program.return"),
            problem,
        )
        for options, problem in (
            ('type = int, max_tokens = "4"', "max_tokens is a number of tokens"),
            ("type = int, max_tokens = 0", "not 0"),
            ("type = int, max_tokens = 4, temperature = nan", "temperature is a number"),
            ("type = int<9>, max_tokens = 4", "int<9> is no type that a model can say"),
            ("type = list<int<9, 1>>, max_tokens = 4", "is no type that a model can say"),
            ("type = str, max_tokens = 4", "it says str, and binds int"),
        )
    },
    "defined twice": (
        func('%t = program.literal %s, text = "a" : stream',
             '%t = program.literal %s, text = "a" : stream', "program.return"),
        "%t is defined twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_ir_is_refused(name):
    text, problem = BROKEN[name]
    module = parse_module(text, "broken.ir")
    with pytest.raises(InvalidIR) as caught:
        verify(module)
    assert problem in caught.value.message
    assert "in this operation:" in caught.value.render()
    assert caught.value.span is not None


def test_a_value_has_one_type_and_is_defined_before_use():
    stream, other = Value("s", STREAM), Value("s", INT)
    literal = make("program.literal", other, results=(Value("t", STREAM),), text="a")

    def module(*arguments: Value) -> Module:
        body = Region(arguments, (literal, make("program.return")))
        return Module(
            (make("program.func", name=Symbol("p"), parameters=[], returns=STR, regions=(body,)),)
        )

    verify(module(other))
    with pytest.raises(InvalidIR, match="%s is stream, not int"):
        verify(module(stream))
    with pytest.raises(InvalidIR, match="used before it is defined"):
        verify(module())


def test_only_the_named_dialects_are_allowed():
    module = parse_module(func("program.return"))
    verify(module, ("program",))
    with pytest.raises(InvalidIR, match="not allowed here, only plan"):
        verify(module, ("plan",))


def test_a_region_does_not_leak_into_what_follows():
    text = func(
        "%c = program.constant value = true : bool",
        "program.if %c {", "  %x = program.constant value = 7 : int", "  program.yield", "} {",
        "  program.yield", "}", "program.return",
    )  # fmt: skip
    module = parse_module(text)
    verify(module)
    inner = next(item for item in module.walk() if item.attribute("value") == 7).result
    body = module.operations[0].regions[0]
    leaking = (*body.operations[:-1], make("program.return", inner))
    broken = Operation(
        "program.func", (), module.operations[0].attributes, (Region(body.arguments, leaking),)
    )
    with pytest.raises(InvalidIR, match="used before it is defined"):
        verify(Module((broken,)))


def test_long_operations_are_cut_in_the_message():
    module = Module((make("program.nothing", text="x" * 5000),))
    with pytest.raises(InvalidIR) as caught:
        verify(module)
    assert len(caught.value.render()) < 1200


def test_every_specification_names_its_dialect_and_says_what_it_does():
    for name, spec in specifications().items():
        assert name.partition(".")[0] in {"program", "plan", "graph", "tile"}
        assert spec.summary and not set(spec.required) & set(spec.optional)


def test_names_are_never_given_twice():
    names = Names({"x"})
    given = [names.fresh("x"), names.fresh("x"), names.fresh("x_1"), names.fresh("y")]
    assert given == ["x_1", "x_2", "x_1_1", "y"]
    module = parse_module(func("%a = program.constant value = 1 : int", "program.return"))
    known = Names.of(module)
    assert [known.fresh(hint) for hint in ("a", "s", "b")] == ["a_1", "s_1", "b"]


def test_attributes_of_an_operation():
    operation = make("a.b", name="n", extra=[1, {"k": [2]}], gone=None)
    assert operation.attribute("gone") is None and operation["name"] == "n"
    changed = operation.with_attributes(name="m", extra=None, new=Term("t"))
    assert [key for key, _ in changed.attributes] == ["name", "new"]
    with pytest.raises(KeyError):
        operation["gone"]
