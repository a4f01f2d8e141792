"""The code of docs/cost_model.md runs as it stands, and says what the text says."""

import re
from pathlib import Path

import pytest
import weft

DOCUMENT = Path(weft.__file__).parent / "docs" / "cost_model.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

SAID = {
    "step_table": ["total"],
    "turning_points": ["TurningPoints(stay_below=65", "Roof(name='cpu.host'"],
    "refined": ["weft policy 1", "layers 0"],
    "hrm.paper": ["324 14 0.055885 944.66"],
}
"""A word of each block, and what it prints."""


@pytest.mark.parametrize("word", SAID)
def test_the_examples_run(word, capsys):
    (code,) = [block for block in BLOCKS if word in block]
    exec(compile(code, str(DOCUMENT), "exec"), {})
    printed = capsys.readouterr().out
    assert all(part in printed for part in SAID[word]), printed


def test_every_block_is_tried():
    assert len(BLOCKS) == len(SAID)
