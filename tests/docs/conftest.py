"""A folder for each document to run in."""

import pytest
from weft.tests.docs.documents import ROOT


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the repository's root, in which blocks may write files."""
    for name in ("examples", "bench", "docs", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
