"""Typed gens on a scripted endpoint: what is accepted, what is asked of which server."""

from __future__ import annotations

import pytest
import weft
from weft.runtime.remote.errors import WrongValue


def typed(type: str) -> str:
    returns = type if type in {"R", "bool"} else "int"
    return f"""
record R:
    a: str
    b: int(1..9)

program p() -> {returns}:
    user "Go"
    assistant gen x(max_tokens=20): {type}
    return x
"""


@pytest.mark.parametrize(
    "type, said, value",
    [("int", "7", 7), ("R", '{"b": 3, "a": "x"}', {"a": "x", "b": 3}), ("bool", " true\n", True)],
)
def test_a_value_of_its_type_is_accepted(fake, type, said, value):
    fake.answers(fake.said(said))
    executable = weft.compile(typed(type), fake.model, remote_dialect="plain")
    assert executable.run().value == value


@pytest.mark.parametrize("type, said", [("int", "seven"), ("R", '{"a": "x"}'), ("R", "{"),
                                        ("R", '{"a": "x", "b": 12}'), ("bool", "yes")])  # fmt: skip
def test_a_value_of_no_type_is_refused(fake, type, said):
    fake.answers(fake.said(said))
    executable = weft.compile(typed(type), fake.model, remote_dialect="plain")
    with pytest.raises(WrongValue) as error:
        executable.run()
    assert error.value.span is not None and "type" in error.value.hint_text


def test_a_schema_file_is_checked_here_too(fake, tmp_path):
    (tmp_path / "s.json").write_text(
        '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, '
        '"required": ["a"], "additionalProperties": false}'
    )
    program = tmp_path / "p.weft"
    program.write_text(
        'program p() -> str:\n    user "Go"\n    assistant gen x: schema "s.json"\n    return "k"\n'
    )
    executable = weft.compile(program, fake.answers(fake.said('{"b": "y", "a": 1}')).model)
    assert executable.run().values["x"] == {"b": "y", "a": 1}
    fake.answers(fake.said('{"a": "1"}'))
    with pytest.raises(WrongValue, match="schema"):
        executable.run()


def test_a_drawn_answer_is_asked_for_again(fake):
    text = typed("int").replace("max_tokens=20", "max_tokens=20, temperature=1.0")
    fake.answers(fake.said("x"), fake.said("y"), fake.said("5"))
    assert weft.compile(text, fake.model, remote_dialect="plain").run().value == 5
    seeds = [body["seed"] for _, body in fake.asked]
    assert len(set(seeds)) == 3


def test_openai_holds_by_a_json_schema(fake):
    fake.answers(fake.said('{"value": 4}'))
    result = weft.compile(typed("int(1..9)"), fake.model, remote_dialect="openai").run()
    assert result.values["x"] == 4 and result.text.endswith("assistant: 4\n")
    form = fake.asked[0][1]["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    value = form["json_schema"]["schema"]["properties"]["value"]
    assert value == {"type": "integer", "minimum": 1, "maximum": 9}


@pytest.mark.parametrize(
    "dialect, field, type",
    [
        ("vllm", "structured_outputs", "int"), ("sglang", "regex", "int"),
        ("llama.cpp", "grammar", "int"), ("llama-cpp-python", "grammar", "R"),
        ("vllm", "structured_outputs", "R"), ("sglang", "json_schema", "R"),
    ],
)  # fmt: skip
def test_servers_hold_by_extensions_of_their_own(fake, dialect, field, type):
    fake.answers(fake.said("7" if type == "int" else '{"a": "x", "b": 3}'))
    weft.compile(typed(type), fake.model, remote_dialect=dialect).run()
    body = fake.asked[0][1]
    assert field in body and "min_p" in body and "response_format" not in body


def test_the_model_list_tells_the_dialect(fake):
    fake.models = [{"id": "m", "owned_by": "vllm"}]
    fake.answers(fake.said("7"))
    weft.compile(typed("int"), fake.model).run()
    assert "structured_outputs" in fake.asked[0][1]
