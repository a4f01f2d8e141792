"""Source texts and spans: where every operation and every error comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A named text; `name` is a file's path, or a label such as `<python judge>`."""

    name: str
    text: str

    def line(self, number: int) -> str:
        """Return line `number` (from 1) without its end, or an empty string past the end."""
        lines = self.lines
        return lines[number - 1] if 1 <= number <= len(lines) else ""

    @property
    def lines(self) -> list[str]:
        """The lines without their ends: as parsers count them, by line feeds alone."""
        text = self.text.removesuffix("\n")
        return [line.removesuffix("\r") for line in text.split("\n")] if text else []


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of a source: lines and columns from 1, the end column exclusive."""

    source: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """Return the span from this one's start to the other's end."""
        return Span(self.source, self.line, self.column, other.end_line, other.end_column)
