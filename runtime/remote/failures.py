"""What an answer that is no success means: tried again, or told to the user."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .errors import ContextOverflow, MissingRoute, Refused, Unauthorized

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses of failures that may be gone when the call is made again."""

TOO_MANY = 429
"""Of these calls, or of their tokens in a minute: no prompt is too long for the model."""

LONGEST_WAIT = 120.0
"""Seconds: a server that asks for a longer wait is not waited for as long."""

_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum context|too many tokens|exceeds? .*context|"
    r"longer than the maximum|prompt is too long",
    re.IGNORECASE,
)


class Passing(Exception):
    """A failure that another try may not have: `kind` is `network`, `cut` or a status."""

    def __init__(self, kind: str, problem: str, delay: float = 0.0) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.delay = delay


def refusal(
    status: int, text: str, url: str, path: str, what: str, delay: float = 0.0
) -> Exception:  # fmt: skip
    """Return the error that a status and its text stand for."""
    problem, code = message_of(text)
    if status != TOO_MANY and _TOO_LONG.search(f"{problem} {code}"):
        return ContextOverflow(what=what, problem=problem)
    if status in {401, 403}:
        return Unauthorized(url=url, status=status, problem=problem)
    if status in PASSING and code != "insufficient_quota":
        return Passing(str(status), problem, delay)
    if status in {404, 405}:
        return MissingRoute(url=url, path=path)
    return Refused(what=what, url=url, status=status, problem=problem)


def message_of(text: str) -> tuple[str, str]:
    """Return the message and the code of an error's body, in whatever form a server writes it."""
    try:
        body: Any = json.loads(text)
    except ValueError:
        return _short(text), ""
    if not isinstance(body, dict):
        return _short(text), ""
    error = body.get("error")
    found = error if isinstance(error, dict) else body
    message = found.get("message") or found.get("detail") or found.get("error") or text
    return _short(message if isinstance(message, str) else json.dumps(message)), str(
        found.get("code") or found.get("type") or ""
    )


def delay_of(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: a number, or a date; 0 where it does not."""
    try:
        if "retry-after-ms" in headers:
            return _bounded(float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "0")
        if text.strip()[:1].isdigit():
            return _bounded(float(text))
        return _bounded((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), LONGEST_WAIT)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return (text[:297] + "...") if len(text) > 300 else text or "no reason given"
