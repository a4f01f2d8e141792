"""Errors and warnings: a message template, a span, a hint, notes; rendered with line and caret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .source import Source, Span


@dataclass(frozen=True)
class Note:
    """A remark that belongs to a diagnostic, with the place it speaks of."""

    message: str
    span: Span | None = None


class WeftError(Exception):
    """Base of everything that a user can cause.

    A subclass sets `template` (a format string over the keyword fields), and may set `hint`.
    Raise it as `SomeError(field=value, span=span)`; it pickles, and renders with source lines.
    """

    kind: ClassVar[str] = "error"
    template: ClassVar[str] = "{message}"
    hint: ClassVar[str] = ""
    abrupt: ClassVar[bool] = False
    """Whether a process that ends with it must leave at once: what waits for others never ends."""

    def __init__(
        self,
        *,
        span: Span | None = None,
        notes: tuple[Note, ...] = (),
        source: Source | None = None,
        **fields: Any,
    ) -> None:
        self.span = span
        self.notes = notes
        self.source = source
        self.fields = fields
        super().__init__(self.render())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.span, self.notes, self.source, self.fields)

    @property
    def message(self) -> str:
        """The filled template, one line."""
        return self.template.format(**self.fields)

    @property
    def hint_text(self) -> str:
        """The filled hint; a `hint` field of the instance wins over the class's."""
        return str(self.fields.get("hint") or self.hint.format(**self.fields))

    def with_source(self, source: Source) -> WeftError:
        """Return the same error, able to show lines of `source`."""
        return _rebuild(type(self), self.span, self.notes, source, self.fields)

    def render(self) -> str:
        """Return `file:line:column: kind: message`, the line, a caret, notes and the hint."""
        place = f"{self.span}: " if self.span else ""
        parts = [f"{place}{self.kind}: {self.message}", *_excerpt(self.source, self.span)]
        for note in self.notes:
            at = f"{note.span}: " if note.span else ""
            parts += [f"{at}note: {note.message}", *_excerpt(self.source, note.span)]
        if self.hint_text:
            parts.append(f"hint: {self.hint_text}")
        return "\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def _rebuild(
    cls: type[WeftError],
    span: Span | None,
    notes: tuple[Note, ...],
    source: Source | None,
    fields: dict[str, Any],
) -> WeftError:
    return cls(span=span, notes=notes, source=source, **fields)


def _excerpt(source: Source | None, span: Span | None) -> list[str]:
    """Return the span's first line and a caret line below it, if the source is at hand."""
    if source is None or span is None or span.source != source.name:
        return []
    line = source.line(span.line)
    end = span.end_column if span.end_line == span.line else len(line) + 1
    width = max(1, min(end, len(line) + 1) - span.column)
    before = span.column - 1
    if len(line) > WIDEST:
        line, before, width = _around(line, before, width)
    gutter = f"{span.line:>5} | "
    return [gutter + line, " " * 5 + " | " + " " * before + "^" * width]


WIDEST = 200
"""Characters of a source line that an error shows."""


def _around(line: str, before: int, width: int) -> tuple[str, int, int]:
    """Return what of a long line is shown, how much of it stands before the place, its width."""
    start = max(0, min(before - WIDEST // 3, len(line) - WIDEST))
    end = start + WIDEST
    head, tail = "... " * (start > 0), " ..." * (end < len(line))
    return f"{head}{line[start:end]}{tail}", before - start + len(head), min(width, end - before)


class WeftSyntaxError(WeftError):
    """Text that the grammar does not read."""

    kind = "syntax error"


class WeftNameError(WeftError):
    """A name that nothing binds, or that is bound twice."""

    kind = "name error"


class WeftTypeError(WeftError):
    """A value of another type than its place wants."""

    kind = "type error"


class PassError(WeftError):
    """A pass that was asked for what it cannot do, or left the IR invalid."""

    kind = "pass error"


class CapacityError(WeftError):
    """Something that does not fit: context, KV memory, a device, a disk."""

    kind = "capacity error"


class KernelError(WeftError):
    """A kernel that cannot be built, proven, loaded or launched."""

    kind = "kernel error"


class ModelError(WeftError):
    """A checkpoint that is missing, corrupt or of an unknown architecture."""

    kind = "model error"


class RunError(WeftError):
    """A failure while a program runs: a tool, a row, a journal."""

    kind = "run error"


def reason(error: OSError | ValueError) -> str:
    """Return why a file could not be read or written, for people."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class Warning:
    """The record of an error with a lower severity: reported, not raised."""

    message: str
    span: Span | None = None
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else ""
        return f"{place}warning: {self.message}" + (f"\nhint: {self.hint}" if self.hint else "")
