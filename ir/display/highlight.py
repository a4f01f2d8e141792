"""Cuts a line of text into words with their kinds, for colour; by rules that a browser reads too.

A rule is (kind, pattern); the first that fits wins. Patterns keep to what Python's and
JavaScript's regular expressions have in common, and have no capturing groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

_STRING = r'"(?:[^"\\]|\\.)*"'
_DOCSTRING = r'"""(?:(?!""").)*(?:""")?'  # of one line, or the first or last line of more
_NUMBER = r"\b\d[\w.]*(?:[eE][+-]?\d+)?\b"
_KEYWORDS = (
    r"\b(?:and|as|assert|best|break|call|class|continue|def|elif|else|for|fork|from|gen|if|import|"
    r"in|is|join|lambda|let|match|not|or|pass|program|record|return|select|template|tool|type|"
    r"where|while|with|yield|system|user|assistant|True|False|None|true|false|null)\b"
)
RULES: dict[str, list[tuple[str, str]]] = {
    "ir": [
        ("comment", r"//.*"),
        ("string", _STRING),
        ("value", r"%[\w.]+"),
        ("symbol", r"@[\w.]+"),
        ("operation", r"\b(?:program|plan|graph|tile|prefix)\.\w+"),
        ("number", _NUMBER),
    ],
    "weft": [
        ("comment", r"#.*|//.*"),
        ("string", _DOCSTRING + "|" + _STRING),
        ("operation", _KEYWORDS),
        ("number", _NUMBER),
    ],
    "python": [
        ("comment", r"#.*"),
        ("string", _DOCSTRING + "|" + _STRING + r"|'(?:[^'\\]|\\.)*'"),
        ("symbol", r"@[\w.]+"),
        ("operation", _KEYWORDS + r"|\b(?:T|tl)\.\w+"),
        ("number", _NUMBER),
    ],
    "assembly": [
        ("comment", r"#.*|//.*|;.*"),
        ("string", _STRING),
        ("symbol", r"^[\w.$]+:|^\$?[\w.$]+:"),
        ("operation", r"^\s+[a-z][\w.]*"),
        ("value", r"%[\w.]+"),
        ("number", r"\$?-?\b\d\w*\b"),
        ("comment", r"^\s*\.[\w.]+"),
    ],
    "diff": [
        ("comment", r"^(?:---|\+\+\+|@@).*"),
        ("added", r"^\+.*"),
        ("removed", r"^-.*"),
    ],
    "text": [],
}  # fmt: skip


@cache
def _compiled(language: str) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    rules = RULES[language]
    if not rules:
        return None, ()
    pattern = "|".join(f"({pattern})" for _, pattern in rules)
    return re.compile(pattern, re.ASCII), tuple(kind for kind, _ in rules)


def words(line: str, language: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of a line's words, in order; kind is '' between the known ones."""
    pattern, kinds = _compiled(language)
    at = 0
    for found in pattern.finditer(line) if pattern else ():
        if found.start() > at:
            yield "", line[at : found.start()]
        yield kinds[(found.lastindex or 1) - 1], found[0]
        at = found.end()
    if at < len(line):
        yield "", line[at:]
