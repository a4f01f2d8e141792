"""The AST as text: one node a line, what it holds indented below it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .ast import Node


def dump(node: Node) -> str:
    """Return a node as indented text: one node a line, its span at the end."""
    lines: list[str] = []
    _dump(node, "", "", lines)
    return "\n".join(lines) + "\n"


def _dump(node: Node, label: str, indent: str, lines: list[str]) -> None:
    head, children = [f"{label}{type(node).__name__}"], []
    for item in fields(node):
        value = getattr(node, item.name)
        if item.name in {"span", "source"} or value is None or value == ():
            continue
        children += _children(item.name, value)
        if not isinstance(value, Node | tuple):
            head.append(f"{item.name}={value!r}")
    place = f"  @{node.span.line}:{node.span.column}" if node.span else ""
    lines.append(indent + " ".join(head) + place)
    for name, child in children:
        if isinstance(child, Node):
            _dump(child, f"{name}: " if name else "", indent + "  ", lines)
        else:
            lines.append(f"{indent}  {name}: {child!r}" if name else f"{indent}  {child!r}")


def _children(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Node):
        return [(name, value)]
    if not isinstance(value, tuple):
        return []
    plain = name in {"parts", "body", "declarations", "arguments", "elements", "parameters"}
    return [("" if plain else name, item) for item in value]
