"""Types that name files: JSON Schema and grammars, read relative to the program."""

import pytest
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse
from weft.ir.diagnostics import WeftError
from weft.ir.source import Source


def opened(tmp_path, type: str, **files: str):
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    text = f"program p() -> str:\n    gen x: {type}\n    return str(x)\n"
    file = parse(Source(str(tmp_path / "p.weft"), text))
    assert check(file) == []
    return next(op for op in lower(file).walk() if op.name == "program.gen")


def test_the_text_of_the_file_is_in_the_ir(tmp_path):
    gen = opened(tmp_path, 'schema "s.json"', s_json='{"type":\n "integer"}')
    assert gen["type"].parameters == ('{"type": "integer"}',)
    assert constraint_of(gen["type"], {})[0] == "json"
    gen = opened(tmp_path, 'grammar "g.lark"(max_tokens=3)', g_lark='start: "a"\n')
    assert constraint_of(gen["type"], {}) == ("lark", 'start: "a"\n')
    assert gen["max_tokens"] == 3


@pytest.mark.parametrize(
    ("type", "problem"),
    [
        ('schema "none.json"', "the schema 'none.json' cannot be read: No such file"),
        ('schema "bad.json"', "'bad.json' cannot be read: this is no JSON at column 2: a name"),
        ('schema "twice.json"', "cannot be read: the key 'type' stands twice in one object"),
        ('schema "deep.json"', "objects and lists stand in one another more than 120"),
        ('schema "list.json"', "a schema is a JSON object"),
        ('list[schema "s.json"]', "a schema stands alone, in no list"),
        ('grammar ["g.lark"]', 'write grammar "file"'),
    ],
)
def test_mistakes_have_names(tmp_path, type, problem):
    files = {"bad_json": "{", "list_json": "[]", "s_json": "{}", "deep_json": "[" * 100_000,
             "twice_json": '{"type": "string", "type": "null"}'}  # fmt: skip
    with pytest.raises(WeftError) as caught:
        opened(tmp_path, type, **files)
    assert problem in str(caught.value)
    assert caught.value.span is not None and "gen x" in str(caught.value)


@pytest.mark.parametrize(("depth", "fine"), [(120, True), (121, False)])
def test_a_schema_is_told_that_it_is_too_deep_where_it_is_read(tmp_path, depth, fine):
    schema = '{"items": ' * (depth - 1) + '{"type": "null"}' + "}" * (depth - 1)
    if fine:
        opened(tmp_path, 'schema "s.json"', s_json=schema)
        return
    with pytest.raises(WeftError, match="more than 120 deep\n(.*\n)*hint: .*\\$defs"):
        opened(tmp_path, 'schema "s.json"', s_json=schema)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ('{"type": "objct"}', "#/type: it is one or more of null, boolean, integer"),
        ('{"type": []}', "#/type: it is one or more of null"),
        ('{"type": [["null"]]}', "#/type: it is one or more of null"),
        ('{"type": "string", "minLength": "x"}', "#/minLength: it is a whole number, 0 or more"),
        ('{"type": "string", "maxLength": -1}', "#/maxLength: it is a whole number, 0 or more"),
        ('{"type": "string", "maxLength": 2.5}', "#/maxLength: it is a whole number, 0 or more"),
        ('{"type": "string", "pattern": 5}', "#/pattern: it is a string"),
        ('{"type": "integer", "minimum": NaN}', "NaN is no JSON"),
        ('{"type": "integer", "minimum": 1e999}', "#/minimum: it is a number"),
        ('{"type": "integer", "minimum": true}', "#/minimum: it is a number"),
        (f'{{"type": "integer", "maximum": 1{"0" * 400}}}', "#/maximum: it is a number"),
        ('{"enum": "abc"}', "#/enum: it is a list of values, at least one"),
        ('{"enum": []}', "#/enum: it is a list of values, at least one"),
        ('{"anyOf": {}}', "#/anyOf: it is a list of schemas, at least one"),
        ('{"properties": []}', "#/properties: it is an object, with a schema for each name"),
        ('{"properties": {"a": {"required": "b"}}}', "#/properties/a/required: it is a list of na"),
        ('{"items": {"anyOf": [{}, 5]}}', "#/items/anyOf/1: a schema is a JSON object, true or"),
        ('{"$defs": {"a": {"multipleOf": 0}}}', "#/$defs/a/multipleOf: it is a number above 0"),
    ],
)
def test_a_schema_of_a_wrong_form_is_told_with_the_place_inside_it(tmp_path, schema, problem):
    with pytest.raises(WeftError) as caught:
        opened(tmp_path, 'schema "s.json"', s_json=schema)
    assert f"the schema 's.json' cannot be read: {problem}" in str(caught.value)
    assert "p.weft:2:" in str(caught.value)


def test_schemas_of_right_form_stay_as_they_are(tmp_path):
    schema = (
        '{"type": ["object", "null"], "properties": {"enum": {"const": {"type": 5}}, "b": true}, '
        '"items": [{}], "title": "t", "x-more": 5, "required": [], "minProperties": 2.0}'
    )
    gen = opened(tmp_path, 'schema "s.json"', s_json=schema)
    assert gen["type"].parameters == (schema,)
