"""What `--arg` gives a program: text, JSON, or what a file holds."""

from __future__ import annotations

import pytest
from weft.cli.run import written_arguments
from weft.runtime.programs.arguments import Written


@pytest.mark.parametrize(
    ("held", "is_json"),
    [('"Yes," she said.\n', False), ('"Yes"', False), ('["a", "b"]\n', True), ("7", True)],
)
def test_a_file_that_begins_with_a_quotation_is_text(tmp_path, held, is_json):
    (tmp_path / "held.txt").write_text(held)
    (value,) = written_arguments([f"a=@{tmp_path / 'held.txt'}"]).values()
    assert value == held.strip() and isinstance(value, Written) == is_json
