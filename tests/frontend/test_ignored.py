"""What a model in this process cannot do is told, once for each name, where it stands."""

import pytest
import weft
from weft.compiler import Compilation
from weft.frontend.ignored import ignored, ignored_remotely

TEXT = """
program two(question: str) -> list[str]:
    user "{question}"
    with adapter "poet":
        assistant:
            gen verse(max_tokens=4)
            gen more(max_tokens=4)
    with client "openai:http://localhost:8000/v1#large":
        assistant gen prose(max_tokens=4)
    with priority 2:
        assistant gen last(max_tokens=4)
    return [verse, more, prose, last]
"""


def test_each_adapter_and_client_is_told_once():
    told = [str(warning) for warning in ignored(Compilation(TEXT, None).lowered)]
    assert len(told) == 2
    assert 'with adapter "poet": a model in this process has no adapters' in told[0]
    assert 'with client "openai:http://localhost:8000/v1#large"' in told[1]
    assert "--model openai:URL#NAME" in told[1] and ":6:" in told[0]


def test_a_program_without_them_is_not_told_of():
    plain = 'program one() -> str:\n    "Say."\n    gen word(max_tokens=2)\n    return word\n'
    assert not ignored(Compilation(plain, None).lowered)


def test_what_the_checker_finds_suspicious_is_told_where_a_program_is_compiled():
    body = '    "{x}"\n    gen a(max_tokens=2)\n    return a\n    "late"\n'
    with pytest.warns(UserWarning) as told:
        weft.compile(f"program one(x: str, y: str) -> str:\n{body}")
    assert {warning.filename for warning in told} == {__file__}
    found = " ".join(str(warning.message) for warning in told)
    assert "`y` is never used" in found and "nothing reaches this statement" in found


def test_a_policy_that_an_endpoint_is_not_told_of_is_told_to_the_user():
    text = TEXT.replace("with priority 2:", "with attention sparse(k=64):")
    (told,) = ignored_remotely(Compilation(text, None).lowered)
    assert "with attention sparse(k=64): an endpoint reads keys as it does" in str(told)
    assert ":11:" in str(told) and not ignored_remotely(Compilation(TEXT, None).lowered)
