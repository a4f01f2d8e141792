"""What a body does to the names and the stream around it, read off its syntax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from .. import ast
from .constants import constant_of


def assigned(body: Iterable[ast.Statement]) -> list[str]:
    """Return the names that a body binds, in order of first binding, without a fork's inside."""
    names: dict[str, None] = {}
    for statement in flat(body):
        if isinstance(statement, ast.Assign | ast.Gen | ast.Select | ast.Fork | ast.Join):
            names[statement.name or ""] = None
    return [name for name in names if name]


def caught(body: Iterable[ast.Statement]) -> frozenset[str]:
    """Return the names that a match with an error case looks at: their tool calls may fail."""
    return frozenset(
        statement.subject.name
        for statement in everything(body)
        if isinstance(statement, ast.Match) and isinstance(statement.subject, ast.Name)
        if any(case.kind == "error" for case in statement.cases)
    )


def selected(body: Iterable[ast.Statement]) -> dict[str, frozenset[str]]:
    """Return the options of names that selects bind, where each select has them written."""
    found: dict[str, frozenset[str]] = {}
    computed = set[str]()
    for select in everything(body):
        if not isinstance(select, ast.Select):
            continue
        options = constant_of(select.choices)
        if isinstance(options, list) and all(isinstance(one, str) for one in options):
            found[select.name] = found.get(select.name, frozenset()) | frozenset(options)
        else:
            computed.add(select.name)
    return {name: options for name, options in found.items() if name not in computed}


def everything(body: Iterable[ast.Statement]) -> Iterator[ast.Statement]:
    """Yield a body's statements and those of all its blocks, the bodies of forks among them."""
    for statement in flat(body):
        yield statement
        if isinstance(statement, ast.Fork):
            yield from everything(statement.body)


def appends(body: Iterable[ast.Statement]) -> bool:
    """Say whether a body appends to the stream; a fork's branches append to their own."""
    kinds = (ast.Append, ast.Message, ast.Gen, ast.Select, ast.Join)
    return any(isinstance(item, kinds) or _inlines(item) for item in flat(body))


def _inlines(statement: ast.Statement) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(value, ast.Run) and value.how == "inline"


def runs(program: ast.Program) -> Iterator[ast.Run]:
    """Yield where a program runs others."""
    return (node for node in nodes(program) if isinstance(node, ast.Run))


def has_messages(program: ast.Program, programs: Mapping[str, ast.Program]) -> bool:
    """Say whether a program's stream gets chat messages, be it by programs that it inlines."""
    seen, waiting = {program.name}, [program]
    while waiting:
        one = waiting.pop()
        if any(isinstance(node, ast.Message) for node in everything(one.body)):
            return True
        inlined = {run.program for run in runs(one) if run.how == "inline"} - seen
        waiting += [programs[name] for name in inlined if name in programs]
        seen |= inlined
    return False


def nodes(node: ast.Node) -> Iterator[ast.Node]:
    """Yield a node and all nodes inside it, in the order of the text."""
    yield node
    for item in fields(node):
        value = getattr(node, item.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, ast.Node):
                yield from nodes(inner)


def flat(body: Iterable[ast.Statement]) -> Iterator[ast.Statement]:
    """Yield a body's statements, and those of its blocks, without the bodies of forks."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.Message | ast.For | ast.While | ast.With):
            yield from flat(statement.body)
        if isinstance(statement, ast.Match):
            for case in statement.cases:
                yield from flat(case.body)
        if isinstance(statement, ast.If):
            yield from flat(statement.then)
            yield from flat(statement.otherwise)
