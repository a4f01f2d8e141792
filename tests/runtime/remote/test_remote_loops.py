"""Loops of remote programs: their texts are looked at."""

from __future__ import annotations

import pytest
import weft
from weft.runtime.remote import instance as remote_instance
from weft.runtime.remote.errors import TextTooLong


@pytest.mark.parametrize("head", ["while n >= 0 up to 100000", "for x in range(100000)"])
def test_a_loop_s_text_has_a_bound(fake, head, monkeypatch):
    monkeypatch.setattr(remote_instance, "MOST_CHARACTERS", 8000)
    text = f"""
program p() -> str:
    let n = 0
    {head}:
        "{{n}} and "
        n = n + 1
    gen word(max_tokens=4)
    return word
"""
    with pytest.raises(
        TextTooLong, match=r"row 0: after 1024 rounds of a loop its text has"
    ) as error:
        weft.compile(text, fake.model).run()
    assert error.value.span.line == 4
