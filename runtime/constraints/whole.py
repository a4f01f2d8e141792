"""Whether a text is one of a JSON schema or a grammar, whole: a budget may have cut it short."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from typing import Any

KEPT = 64
"""Schemas and grammars that `fits` keeps."""


class WholeTexts:
    """The whole texts of a JSON schema (`json`, as text or as a dict), spelled in any way, or of a
    grammar (`lark`): `text in texts`. What there is to compile is compiled when it is made."""

    def __init__(self, kind: str, source: Any) -> None:
        from llguidance import LLMatcher

        if kind == "json":
            schema = json.loads(source) if isinstance(source, str) else source
            schema = {key: item for key, item in schema.items() if key != "x-guidance"}
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        else:
            grammar = LLMatcher.grammar_from_lark(source)
        self._matcher = LLMatcher(_bytes_tokenizer(), grammar, log_level=0)

    def __contains__(self, text: str) -> bool:
        matcher = self._matcher.deep_copy()
        tokens = _bytes_tokenizer().tokenize_str(text)
        return bool(matcher.consume_tokens(tokens) and matcher.is_accepting())


def fits(kind: str, source: Any, text: str) -> bool:
    """Return whether a text is one of these `WholeTexts`, which are kept."""
    return text in _kept(kind, source if isinstance(source, str) else json.dumps(source))


@lru_cache(KEPT)
def _kept(kind: str, source: str) -> WholeTexts:
    return WholeTexts(kind, source)


@cache
def _bytes_tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")
