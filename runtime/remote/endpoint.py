"""What an endpoint can do, found out when it matters: its dialect, prefilling, forms of calls."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

from .dialects import Dialect, dialect_of
from .errors import Malformed, MissingRoute, Refused
from .line import Over
from .service import Service, Settings

CHAT, TEXT = "/chat/completions", "/completions"


class Choices(Settings, Protocol):
    """The options that decide what an endpoint is taken for."""

    @property
    def dialect(self) -> str: ...  # noqa: D102
    @property
    def prefill(self) -> str: ...  # noqa: D102


class Endpoint:
    """A service, and what is known of it; programs on threads share it."""

    def __init__(self, service: Service, choices: Choices) -> None:
        self.service = service
        self.token_field = "max_tokens"
        self.lacks_chat = False
        self.lacks_echo = False
        self._choices = choices
        self._lock = threading.Lock()
        self._probed = False
        self._prefill: Mapping[str, Any] | None = None

    @property
    def dialect(self) -> Dialect:
        """The kind of server, as chosen or as its model list says."""
        choice = self._choices.dialect
        owners = []
        if choice == "auto":
            owners = [str(entry.get("owned_by")) for entry in self.service.models()]
        return dialect_of(choice, owners)

    def prefill(self) -> Mapping[str, Any] | None:
        """Return the fields with which an open assistant message is continued, None if it is not.

        A server that ignores the fields, or closes the message and opens another, gives itself away
        by the number of prompt tokens: an `a` that is continued costs one, a message more.
        """
        with self._lock:
            if not self._probed:
                self._prefill = self._probe()
                self._probed = True
            return self._prefill

    def _probe(self) -> Mapping[str, Any] | None:
        candidates = self.dialect.prefill
        if self._choices.prefill != "auto":
            return candidates[0] if self._choices.prefill == "yes" else None
        plain = self._prompt_tokens([{"role": "user", "content": "a"}], {})
        if plain is None:
            return None
        opened = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
        for fields in candidates:
            tokens = self._prompt_tokens(opened, fields)
            if tokens is not None and tokens - plain <= 1:
                return fields
        return None

    def _prompt_tokens(
        self, messages: list[dict[str, str]], fields: Mapping[str, Any]
    ) -> int | None:  # fmt: skip
        body = {"model": self.service.name(), "messages": messages, self.token_field: 1,
                "temperature": 0.0, **fields}  # fmt: skip
        try:
            answer = self.service.post(CHAT, body, "a first look", Over())
        except (Refused, MissingRoute, Malformed):
            return None
        usage = answer.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return count if isinstance(count, int) and count > 0 else None
