"""Fixtures of the pass tests: a context with a tokenizer of bytes and a chat format of markers."""

import pytest
from weft.passes.manager import Context
from weft.passes.validation.registry import validation
from weft.tests.passes.byte_texts import ByteTokenizer, MarkerChat


@pytest.fixture
def context():
    return Context(tokenizer=ByteTokenizer(), chat=MarkerChat(), validate=validation())
