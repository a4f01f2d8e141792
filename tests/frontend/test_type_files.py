"""Types that name files: JSON Schema and grammars, read relative to the program."""

import pytest
from weft.frontend.checker import check
from weft.frontend.constraints import constraint_of
from weft.frontend.lower import lower
from weft.frontend.parser import parse
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
        ('schema "bad.json"', "the schema 'bad.json' cannot be read: Expecting value"),
        ('schema "twice.json"', "cannot be read: the key 'type' stands twice in one object"),
        ('schema "deep.json"', "cannot be read: maximum recursion depth"),
        ('schema "list.json"', "a schema is a JSON object"),
        ('list[schema "s.json"]', "a schema stands alone, in no list"),
        ('grammar ["g.lark"]', 'write grammar "file"'),
    ],
)
def test_mistakes_have_names(tmp_path, type, problem):
    files = {"bad_json": "{", "list_json": "[]", "s_json": "{}", "deep_json": "[" * 100_000,
             "twice_json": '{"type": "string", "type": "null"}'}  # fmt: skip
    if type == 'schema "bad.json"':
        files["bad_json"] = "{]"
        problem = "the schema 'bad.json' cannot be read: "
    with pytest.raises(WeftError) as caught:
        opened(tmp_path, type, **files)
    assert problem in str(caught.value)
    assert caught.value.span is not None and "gen x" in str(caught.value)
