"""The code of docs/cost_model.md runs as it stands."""

import re
from pathlib import Path

import weft

DOCUMENT = Path(weft.__file__).parent / "docs" / "cost_model.md"


def test_the_example_prints_a_price(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    exec(compile(code, str(DOCUMENT), "exec"), {})
    assert "total" in capsys.readouterr().out
