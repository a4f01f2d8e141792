"""A prompt state without tokens: texts and chat messages, as an endpoint takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Part:
    """A message of a role, or text outside of messages (`role` is None).

    The model has said what stands before place `said`: a space there is its own, and not healed.
    """

    role: str | None
    text: str = ""
    closed: bool = False
    said: int = 0


class TextFormat(Protocol):
    """Writes messages as text, for an endpoint that takes only text."""

    def start(self) -> str:
        """Return what stands before the first message or text."""
        ...

    def begin(self, roles: tuple[str, ...], role: str) -> str:
        """Return what stands before a message's content, after messages of `roles`."""
        ...

    def end(self, roles: tuple[str, ...], role: str) -> str:
        """Return what stands after it."""
        ...


class PlainFormat:
    """`role: content`, one message a line: the language's form where a model has no template."""

    def start(self) -> str:
        """Return nothing."""
        return ""

    def begin(self, roles: tuple[str, ...], role: str) -> str:
        """Return the role."""
        return f"{role}: "

    def end(self, roles: tuple[str, ...], role: str) -> str:
        """Return a line's end."""
        return "\n"


@dataclass(frozen=True)
class Stream:
    """The parts so far; each method returns the next state."""

    parts: tuple[Part, ...] = ()

    def plus(self, text: str, said: bool = False) -> Stream:
        """Append a text to the open message, or outside of messages; `said` by the model."""
        last = self.tail or Part(None)
        before = self.parts[:-1] if self.tail else self.parts
        if not text and not (said and self.tail):
            return self
        whole = last.text + text
        after = replace(last, text=whole, said=len(whole) if said else last.said)
        return Stream((*before, after))

    def begin(self, role: str) -> Stream:
        """Open a message; a text outside of messages ends there."""
        return Stream((*self._ended().parts, Part(role)))

    def end(self) -> Stream:
        """Close the open message."""
        return self._ended()

    def _ended(self) -> Stream:
        if not self.parts or self.parts[-1].closed:
            return self
        return Stream((*self.parts[:-1], replace(self.parts[-1], closed=True)))

    @property
    def tail(self) -> Part | None:
        """The part that a text would be appended to."""
        return self.parts[-1] if self.parts and not self.parts[-1].closed else None

    @property
    def opening(self) -> str:
        """The text that the model's answer would continue in its message."""
        return self.tail.text if self.tail else ""

    @property
    def may_heal(self) -> bool:
        """Whether a space at the end is the program's, not the model's."""
        return self.tail is None or self.tail.said < len(self.tail.text) or not self.tail.said

    def without_space(self) -> Stream:
        """Return the stream less the space at its end."""
        last = self.parts[-1]
        return Stream((*self.parts[:-1], replace(last, text=last.text[:-1])))

    def messages(self) -> list[dict[str, str]]:
        """Return the chat messages, without an open assistant message that is still empty."""
        found = [{"role": part.role or "user", "content": part.text} for part in self.parts]
        tail = self.tail
        return found[:-1] if tail is not None and tail.role and not tail.text else found

    def text(self, format: TextFormat) -> str:
        """Return all as one text."""
        roles: tuple[str, ...] = ()
        written = format.start()
        for part in self.parts:
            if part.role is None:
                written += part.text
                continue
            written += format.begin(roles, part.role) + part.text
            written += format.end(roles, part.role) if part.closed else ""
            roles += (part.role,)
        return written
