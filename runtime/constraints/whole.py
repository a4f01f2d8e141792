"""Whether a text is one of a JSON schema or a grammar, whole: a budget may have cut it short."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import Any

KEPT = 64
"""Schemas and grammars whose matchers are kept."""


def fits(kind: str, source: Any, text: str) -> bool:
    """Return whether a whole text fits a JSON schema (`json`, as text or as a dict), spelled in
    any way, or a grammar (`lark`)."""
    tokenizer = _bytes_tokenizer()
    matcher = _matcher(kind, source if isinstance(source, str) else json.dumps(source)).deep_copy()
    return bool(matcher.consume_tokens(tokenizer.tokenize_str(text)) and matcher.is_accepting())


@lru_cache(KEPT)
def _matcher(kind: str, source: str) -> Any:
    from llguidance import LLMatcher

    if kind == "json":
        schema = {key: item for key, item in json.loads(source).items() if key != "x-guidance"}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    else:
        grammar = LLMatcher.grammar_from_lark(source)
    return LLMatcher(_bytes_tokenizer(), grammar, log_level=0)


@cache
def _bytes_tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
