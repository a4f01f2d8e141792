"""Fixtures of the pass tests: a context with a tokenizer of bytes and a chat format of markers."""

import sys
from pathlib import Path

import pytest
from weft.passes.manager import Context
from weft.passes.validation.registry import validation

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from byte_texts import ByteTokenizer, MarkerChat  # noqa: E402


@pytest.fixture
def context():
    return Context(tokenizer=ByteTokenizer(), chat=MarkerChat(), validate=validation())
