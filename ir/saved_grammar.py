"""lark's parser of a grammar, with its tables kept in the user's cache.

Making the language's tables took 0.25 s of processor time in each process, reading them 0.03 s.
"""

from __future__ import annotations

import hashlib
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lark
import platformdirs

from .whole_file import write_whole

_MARK = 32
"""Bytes of the digest that stands before the tables."""


def parser_of(grammar: Path, folder: Path | None = None, **options: Any) -> lark.Lark:
    """Return lark's LALR parser of a grammar's file, with lark's `options`.

    The tables are kept under a hash of all that decides them. A file that is not whole, or that
    lark cannot read, counts as none; a folder that cannot be written keeps nothing.
    """
    text = grammar.read_text(encoding="utf-8")
    decides = (text, sorted((name, _named(value)) for name, value in options.items()),
               lark.__version__, sys.version_info[:3])  # fmt: skip
    key = hashlib.sha256(repr(decides).encode()).hexdigest()[:40]
    folder = folder or Path(platformdirs.user_cache_dir("weft")) / "grammars"
    kept = folder / f"{key}.tables"
    with suppress(Exception):  # whatever is wrong with the file, the tables can be made
        content = kept.read_bytes()
        if hashlib.sha256(content[_MARK:]).digest() == content[:_MARK]:
            return lark.Lark.load(io.BytesIO(content[_MARK:]))
    made = lark.Lark(text, parser="lalr", **options)
    tables = io.BytesIO()
    made.save(tables)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(kept, hashlib.sha256(tables.getvalue()).digest() + tables.getvalue())
    return made


def _named(option: Any) -> str:
    """Return an option as what it is, not as where it lies in this process."""
    plain = isinstance(option, bool | str | list)
    return repr(option) if plain else f"{type(option).__module__}.{type(option).__qualname__}"
