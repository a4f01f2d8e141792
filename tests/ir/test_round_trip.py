"""The law of the text form: `parse(print(m)) == m` and `print(parse(t)) == t`, for any module."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from weft.ir import verifier
from weft.ir.core import Module, Operation, Region, Symbol, Table, Term, Value, freeze, thaw
from weft.ir.dialects import graph, plan, program, tile
from weft.ir.dialects.dialect import Dialect
from weft.ir.parser import IRSyntaxError, UndefinedValue, parse_module
from weft.ir.printer import print_module
from weft.ir.source import Span
from weft.ir.verifier import verify
from weft.tests.each_time import examples

DIALECTS = {"program": program, "plan": plan, "graph": graph, "tile": tile}
WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True).filter(
    lambda word: word not in {"true", "false", "null"}
)
TERM_NAMES = WORDS.filter(lambda word: word not in {"float", "loc"})
TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
KEYS = st.one_of(WORDS, TEXTS)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS,
    st.builds(Symbol, WORDS), st.builds(Term, TERM_NAMES),
)  # fmt: skip


def larger(inner):
    items = st.lists(inner, max_size=3).map(tuple)
    tables = st.dictionaries(KEYS, inner, max_size=3).map(lambda d: Table(tuple(d.items())))
    return st.one_of(items, tables, st.builds(Term, TERM_NAMES, items))


ATTRIBUTES = st.recursive(SCALARS, larger, max_leaves=5)
TYPES = st.builds(Term, TERM_NAMES, st.lists(ATTRIBUTES, max_size=2).map(tuple))
SPANS = st.builds(
    Span, TEXTS, st.integers(1, 99), st.integers(1, 99), st.integers(1, 99), st.integers(1, 99)
)


class Builder:
    """Draws a module whose operations come from a dialect, with every use after its definition."""

    def __init__(self, draw, dialect: Dialect, fitting: bool) -> None:
        self.draw = draw
        self.dialect = dialect
        self.fitting = fitting
        self.count = 0

    def value(self) -> Value:
        self.count += 1
        return Value(f"{self.draw(WORDS)}_{self.count}", self.draw(TYPES))

    def many(self, bound) -> int:
        least, most = bound if isinstance(bound, tuple) else (bound, bound)
        return self.draw(st.integers(least, least + 2 if most is None else most))

    def operations(self, scope: list[Value], depth: int, top: bool) -> tuple[Operation, ...]:
        inner = list(scope)
        specs = [spec for spec in self.dialect.operations if not spec.terminator]
        specs = [spec for spec in specs if depth or not spec.regions]
        found = []
        for _ in range(self.draw(st.integers(0, 3))):
            operation = self.operation(self.draw(st.sampled_from(specs)), inner, depth)
            if operation is not None:
                found.append(operation)
                inner += operation.results
        return tuple(found)

    def operation(self, spec, scope: list[Value], depth: int) -> Operation | None:
        wanted = self.many(spec.operands)
        if wanted and not scope:
            return None
        operands = tuple(self.draw(st.sampled_from(scope)) for _ in range(wanted))
        keys = [*spec.required, *(key for key in spec.optional if self.draw(st.booleans()))]
        attributes = tuple((key, self.draw(ATTRIBUTES)) for key in keys)
        regions = []
        for _ in range(spec.regions):
            arguments = tuple(self.value() for _ in range(self.draw(st.integers(0, 2))))
            body = self.operations([*scope, *arguments], depth - 1, top=False)
            regions.append(Region(arguments, body))
        results = tuple(self.value() for _ in range(self.many(spec.results)))
        span = self.draw(st.one_of(st.none(), SPANS))
        return Operation(spec.name, operands, attributes, tuple(regions), results, span)


@st.composite
def modules(draw, dialect: Dialect) -> Module:
    return Module(Builder(draw, dialect, True).operations([], 2, top=True))


@pytest.mark.parametrize("name", DIALECTS)
def test_the_law_holds_in_every_dialect(name):
    @settings(max_examples=examples(60), deadline=None)
    @given(modules(DIALECTS[name].DIALECT))
    def check(module):
        text = print_module(module)
        again = parse_module(text)
        assert again == module
        assert print_module(again) == text

    check()


@pytest.mark.parametrize("name", DIALECTS)
def test_spans_come_back_when_they_are_printed(name):
    @settings(max_examples=examples(30), deadline=None)
    @given(modules(DIALECTS[name].DIALECT))
    def check(module):
        text = print_module(module, spans=True)
        again = parse_module(text)
        assert print_module(again, spans=True).count(" loc(") >= text.count(" loc(")
        for before, after in zip(module.walk(), again.walk(), strict=True):
            assert before.span is None or before.span == after.span

    check()


def test_an_operation_of_nothing_but_a_name_keeps_its_span():
    """`loc` is no attribute's name there, and may be one elsewhere."""
    given = Operation("program.yield", span=Span("p.weft", 1, 2, 3, 4))
    inner = Operation("program.yield", attributes=(("loc", 5),), span=Span("q", 5, 6, 7, 8))
    for operation in (given, inner):
        text = print_module(Module((operation,)), spans=True)
        (again,) = parse_module(text).operations
        assert (again, again.span) == (operation, operation.span)


@pytest.mark.parametrize("name", ["program", "plan"])
def test_what_fits_its_specification_verifies(name, monkeypatch):
    """The builder follows the specifications' counts, so only what else they ask may object."""
    known = {name: replace(spec, check=None, first=None)
             for name, spec in verifier.specifications().items()}  # fmt: skip
    monkeypatch.setattr(verifier, "specifications", lambda: known)

    @settings(max_examples=examples(60), deadline=None)
    @given(modules(DIALECTS[name].DIALECT))
    def check(module):
        found = ((op.name, op.attribute("name")) for op in module.operations)
        names = [each for each in found if isinstance(each[1], Symbol)]
        assume(len(set(names)) == len(names))
        verify(module, (name,))

    check()


@settings(max_examples=examples(200), deadline=None)
@given(ATTRIBUTES)
def test_attributes_print_and_parse(attribute):
    operation = Operation(
        "program.constant", (), (("value", attribute),), (), (Value("x", Term("a")),)
    )
    module = Module((operation,))
    assert parse_module(str(module)) == module


@pytest.mark.parametrize("special", [math.inf, -math.inf])
def test_infinities(special):
    module = Module((Operation("a.b", (), (("x", special),)),))
    assert parse_module(str(module)) == module


def test_not_a_number():
    module = Module((Operation("a.b", (), (("x", math.nan),)),))
    assert math.isnan(parse_module(str(module)).operations[0]["x"])


@given(st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
))  # fmt: skip
def test_thaw_undoes_freeze(value):
    assert thaw(freeze(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "a.b %x = 1", "%x = a.b", "%x, %y = a.b : t", "a.b {", "a.b }", 'a.b k = "x', "a.b k =",
        "a.b : t", "= a.b", "%x = b : t", "a.b {|%x| }",
    ],
)  # fmt: skip
def test_text_that_is_no_ir(text):
    with pytest.raises((IRSyntaxError, UndefinedValue)) as caught:
        parse_module(text, "file.ir")
    assert caught.value.span is not None and "^" in caught.value.render()


def test_a_value_is_used_only_after_its_definition():
    with pytest.raises(UndefinedValue, match="%y is used before"):
        parse_module("%x = a.b %y : t\n%y = a.b : t\n")


def test_a_region_sees_outer_values_but_not_the_other_way():
    parse_module("%x = a.b : t\na.c {\n  a.d %x\n}\n")
    with pytest.raises(UndefinedValue):
        parse_module("a.c {\n  %x = a.d : t\n}\na.d %x\n")


def test_comments_are_nothing():
    assert parse_module("// one\na.b // two\n") == Module((Operation("a.b"),))


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, "9" * 5000])
def test_what_python_cannot_hold_is_no_ir_text(value):
    with pytest.raises(IRSyntaxError, match="nested too deeply|digits"):
        parse_module("program.func name = @p, x = " + value + " {\n}\n")
