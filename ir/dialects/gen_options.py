"""What a gen's options may be: the same rules for programs as written, and for their IR."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..core import Term
from ..numbers import is_finite, is_int


def _is_stop(value: Any) -> bool:
    if isinstance(value, Term):
        return _is_pattern(str(value.parameters[0]))
    texts = value if isinstance(value, list | tuple) else [value]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)


def _is_pattern(source: str) -> bool:
    return not pattern_problem(source) and not re.compile(source).fullmatch("")


def pattern_problem(source: str) -> str:
    """Return why Python does not take a regular expression; empty where it does."""
    try:
        re.compile(source)
    except (re.error, OverflowError) as error:
        return getattr(error, "msg", None) or str(error)
    except RecursionError:
        return "it is nested too deeply"
    return ""


HOTTEST = 1e30
"""The largest temperature: kernels take it in f32."""

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda v: is_int(v) and v > 0, "is a number of tokens, at least 1"),
    "max_items": (lambda v: is_int(v) and v > 0, "is a number of elements, at least 1"),
    "stop": (_is_stop, 'is a string, a list of strings, or regex "...", and fits no empty text'),
    "temperature": (lambda v: is_finite(v) and 0 <= v <= HOTTEST, "is a number from 0 to 1e30"),
    "top_p": (lambda v: is_finite(v) and 0 < v <= 1, "is a number above 0, at most 1"),
    "min_p": (lambda v: is_finite(v) and 0 <= v <= 1, "is a number from 0 to 1"),
    "top_k": (lambda v: is_int(v) and v > 0, "is a number of tokens, at least 1"),
    "seed": (lambda v: is_int(v) and v >= 0, "is a whole number, at least 0"),
    "logprobs": (lambda v: isinstance(v, bool), "is true or false"),
}
"""Of each option: whether a value fits, and what it is."""
