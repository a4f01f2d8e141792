"""Lets the tests of documents import their helper, and gives each document a folder to run in."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the repository's root, in which blocks may write files."""
    from documents import ROOT

    for name in ("examples", "bench", "docs", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
