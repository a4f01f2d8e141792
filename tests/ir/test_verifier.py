"""The verifier: what breaks a rule is refused, with the operation shown."""

import pytest
from weft.ir.core import Module, Names, Operation, Region, Symbol, Term, Value, make
from weft.ir.parser import parse_module
from weft.ir.types import INT, STR, STREAM, list_of
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
    "a stream that is none": (
        func("%c = program.constant value = 2 : int",
             '%t = program.literal %c, text = "a" : stream', "program.return"),
        "takes a stream first, not int",
    ),
    "a loop that yields less than it carries": (
        func("%c = program.list : list<str>", "%r = program.for %c, %s { |%e: str, %t: stream|",
             "program.yield", "} : stream", "program.return"), "yields 0 values, where 1 belong",
    ),
    "a loop whose stream is none": (
        func("%c = program.list : list<str>", "%r = program.for %c, %s { |%e: str, %t: stream|",
             "program.yield %e", "} : stream", "program.return"), "yields str, where stream",
    ),
    "a loop that yields a number for a text": (
        func("%c = program.list : list<str>", '%x = program.constant value = "a" : str',
             "%n = program.constant value = 2 : int",
             "%r = program.for %c, %x { |%e: str, %y: str|",
             "program.yield %n", "} : str", "program.return"), "yields int, where str belongs",
    ),
    "a loop without an element": (
        func("%c = program.list : list<str>", "program.for %c {", "program.yield", "}",
             "program.return"), "where an element belongs",
    ),
    "a loop that goes on by a yield": (
        func("program.while limit = 2 {", "program.yield", "} {", "program.yield", "}",
             "program.return"), "ends in program.yield, where a condition belongs",
    ),
    "sides of an if that yield otherwise": (
        func("%c = program.constant value = true : bool", "%r = program.if %c {",
             "program.yield %c", "} {", "program.yield", "} : bool", "program.return"),
        "yields 0 values, where 1 belong",
    ),
    "an if at the end, of which one side goes on": (
        func("%c = program.constant value = true : bool", "program.if %c {", "program.return",
             "} {", "program.yield", "}"), "ends in program.if",
    ),
    "a branch that ends the program": (
        func("%c = program.constant value = 2 : int",
             '%r = program.fork %s, %c, name = "f" { |%t: stream, %i: int|', "program.return",
             "} : list<int>", "program.return"), "program.return in a branch",
    ),
    "a branch that yields no stream to join": (
        func("%c = program.constant value = 2 : int",
             '%r, %all = program.fork %s, %c, name = "f" { |%t: stream, %i: int|',
             "program.yield %i", "} : list<int>, list<stream>", "program.return"),
        "yields 1 value, where 2 belong",
    ),
    "an inlined program that nothing leaves": (
        func('%t, %v = program.inline %s, name = "p" { |%u: stream|', "program.yield",
             "} : stream, none", "program.return"), "where a leave belongs",
    ),
    "an empty region within a program": (
        func("%c = program.constant value = true : bool", "plan.if %c {", "} {", "}",
             "program.return"), "ends in nothing",
    ),
    "a plan's kv that is none": (
        "plan.func name = @p, parameters = [], returns = none { |%k: kv|\n"
        "%n = program.constant value = 2 : int\nplan.free %n\nplan.return\n}",
        "takes a kv first, not int",
    ),
    "a step without results": ("graph.func name = @step { |%x: tensor<f32, [4]>|\n}", "nothing"),
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
            (f"type = int, max_tokens = 4, top_p = 1{400 * '0'}", "top_p is a number"),
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


KERNEL = """
tile.kernel name = @k, grid = ["4"], writes = ["c"] { |%c: buffer<i32, [4]>, %x: buffer<f32, [4]>|
  %p = tile.program_id axis = 0 : index
  %e = tile.full value = 3 : i32
  %v = tile.load %x, %p : f32
  %t = tile.full value = 1.0 : tile<f32, [4, 8]>
  %r = tile.for %p, %e, %v { |%i: index, %a: f32|
    tile.yield %a
  } : f32
  tile.meet %c, %p, axis = 0
  %q = tile.program_id axis = 0 : index
  tile.store %c, %q, %q
  tile.return
}
"""
FAULTY_KERNELS = {
    "a grid without the axis": ("%q = tile.program_id axis = 0", "%q = tile.program_id axis = 1",
                                "no axis 1"),
    "a buffer that is none": ('["c"]', '["c", "d"]', "'d' is no buffer"),
    "a write that is not told": ('["c"]', "[]", "`writes` does not name"),
    "a kernel that goes on": ("  tile.return\n", "", "where a return belongs"),
    "an index too many": ("tile.load %x, %p", "tile.load %x, %p, %p", "2 indices into 1 dimension"),
    "an access of a tile": ("tile.load %x", "tile.load %e", "no buffer"),
    "a loop that yields its index": ("tile.yield %a", "tile.yield %i", "yields index, where f32"),
    "a loop that yields too much": ("tile.yield %a", "tile.yield %a, %a", "2 values, where 1"),
    "a meeting in a loop": ("tile.yield", "tile.meet %c, %p, axis = 0\n tile.yield",
                            "within a loop"),
    "a value across a meeting": ("%c, %q, %q", "%c, %q, %e", "%e is made before a meeting"),
    **{
        f"a wrong {operation}": (
            "  %r = ", f"  %z = tile.{operation} : tile<f32, [4, 4]>\n  %r = ", problem)
        for operation, problem in (
            ('map %t, expr = "a in a"', "not in the language"),
            ('map %t, expr = "a + b"', "names 'b'"),
            ("transpose %t", "where [8, 4] belongs"),
            ('reduce %t, op = "sum", axis = 0', "where [8] belongs"),
            ("expand %t, axis = 0", "where [1, 4, 8] belongs"),
            ("reshape %t", "where [4, 8] belongs"), ("dot %t, %t, %t", "are no product"),
        )
    },
}  # fmt: skip
BROKEN |= {
    name: (KERNEL.replace(old, new), problem)
    for name, (old, new, problem) in FAULTY_KERNELS.items()
}


def test_the_kernel_without_a_fault_is_taken():
    verify(parse_module(KERNEL))


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
    listed = make("program.list", other, results=(Value("t", list_of(INT)),))

    def module(*arguments: Value) -> Module:
        body = Region(arguments, (listed, make("program.return")))
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
