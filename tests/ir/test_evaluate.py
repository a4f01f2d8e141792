"""Values of unknown kinds and texts from outside: what is refused is told in our own words."""

import pytest
from weft.ir import strict_json
from weft.ir.core import Operation, Term, Value
from weft.ir.evaluate import ValueFailed, best_of, evaluate
from weft.ir.types import ANY, FLOAT, choice, int_range, list_of, record, regex, result_of, written


def value_of(name, operands, attributes):
    values = tuple(Value(f"v{at}", ANY) for at in range(len(operands)))
    return evaluate(Operation(f"program.{name}", values, tuple(attributes.items())), operands)


@pytest.mark.parametrize(
    ("name", "operands", "attributes", "problem"),
    [
        ("binary", ("%d apples", 3), {"op": "%"}, "`%` does not take str and int"),
        ("binary", ([1], 3), {"op": "*"}, "`*` does not take a list of int and int"),
        ("binary", (True, 1), {"op": "+"}, "`+` does not take bool and int"),
        ("binary", (None, 1), {"op": "<"}, "`<` does not take none and int"),
        ("binary", ("a", 5), {"op": "in"}, "`in` does not take str and int"),
        ("unary", ({},), {"op": "neg"}, "`neg` does not take a record"),
        ("field", ("abc",), {"name": "upper"}, "there is no field 'upper' in str"),
        ("field", (3,), {"name": "real"}, "there is no field 'real' in int"),
        ("field", ({"a": 1},), {"name": "b"}, "there is no field 'b'"),
        ("field", ("abc",), {"name": "probs"}, "there is no field 'probs' in str"),
        ("index", (3, 0), {}, "`[...]` does not take int and int"),
        ("index", ([3], "a"), {}, "`[...]` does not take a list of int and str"),
        ("index", ({"a": 1}, "b"), {}, "there is no field 'b'"),
        ("method", (3,), {"name": "upper"}, "int has no method upper"),
        ("method", ({}, "a"), {"name": "count"}, "a record has no method count"),
        ("method", ("a", ""), {"name": "split"}, "the separator is empty"),
        ("method", ([1], 2), {"name": "index"}, "the list does not hold the value"),
        ("builtin", ([1, "a"],), {"name": "sorted"}, "does not take a list of int and str"),
        ("builtin", ([],), {"name": "min"}, "`min` of nothing"),
        ("builtin", (1, 2, 0), {"name": "range"}, "the step is 0"),
        ("builtin", (10**30,), {"name": "range"}, "elements is more than 10000000"),
        ("builtin", (5, -(10**7), -1), {"name": "range"}, "a value of 10000005 elements"),
        ("builtin", (float("inf"),), {"name": "int"}, "inf is no int"),
        ("builtin", (5,), {"name": "len"}, "`len` does not take int"),
        ("binary", (10**400, 3), {"op": "/"}, "larger than any float"),
    ],
)
def test_what_has_no_meaning_is_refused_in_words(name, operands, attributes, problem):
    with pytest.raises(ValueFailed) as refused:
        value_of(name, operands, attributes)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("operands", "op", "value"),
    [
        (("ab", 2), "*", "abab"), ((2, "ab"), "*", "abab"), (([1], [2]), "+", [1, 2]),
        (("a", "b"), "+", "ab"), ((7, 2.0), "%", 1.0), ((7, 2), "//", 3),
    ],
)  # fmt: skip
def test_what_has_a_meaning_is_worked_out(operands, op, value):
    assert value_of("binary", operands, {"op": op}) == value


def test_the_best_branch_is_the_first_of_most_points():
    assert best_of([1.0, 3.0, 3.0], 3, 0, None) == 1
    for points, branches, problem in (
        ([], 0, "no branch to go on with"),
        ([1.0, 2.0], 1, "1 branch and 2 points"),
        ([1.0], 2, "2 branches and 1 point:"),
        ([1.0, float("nan")], 2, "NaN"),
    ):
        with pytest.raises(ValueFailed, match=problem):
            best_of(points, branches, 0, None)


def test_types_read_as_programs_write_them():
    many = choice(*map(str, range(9)))
    for type, text in (
        (int_range(1, 9), "int(1..9)"),
        (list_of(list_of(record("Order"))), "list[list[Order]]"),
        (Term("list", (FLOAT, 3)), "list[float](max_items=3)"),
        (choice('a"b', "é"), 'choice["a\\"b", "é"]'),
        (many, 'choice["0", "1", "2", "3", "4", "5", "6", "7", ...]'),
        (regex("[a-z]+"), 'regex "[a-z]+"'),
        (result_of(list_of(FLOAT)), "list[float] or an error"),
    ):
        assert written(type) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "column 1: a value belongs there"),
        ('{"a": nope}', "column 7: a value belongs there"),
        ("{a: 1}", "column 2: a name in double quotes belongs there"),
        ('{"a" 1}', "column 6: a colon belongs there"),
        ('{"a": 1\n"b": 2}', "line 2, column 1: a comma or an end belongs there"),
        ("1 2", "column 3: more stands behind the value"),
        ('"a', "column 1: the string that begins there does not end"),
        ('"\x01"', "column 2: a control character must be written as an escape"),
        ('"\\q"', "column 2: there is no such escape"),
        ('"\\u12"', "column 3: four digits belong behind \\u"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        ("9" * 5000, "a whole number of more than 4300 digits"),
    ],
)
def test_what_is_no_json_is_told_in_words(text, problem):
    with pytest.raises(ValueError) as refused:
        strict_json.loads(text)
    assert str(refused.value).endswith(problem)
