"""That what files import from each other is there, also where a function does it when it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def files() -> list[Path]:
    """Return the project's modules, without environments and what a build left."""
    return [path for path in ROOT.rglob("*.py")
            if not any(part == "build" or part.startswith(".")
                       for part in path.relative_to(ROOT).parts[:-1])]  # fmt: skip


def place(name: str) -> Path | None:
    """Return the file of a module of ours, None of another's."""
    if name.split(".")[0] != "weft":
        return None
    path = ROOT.joinpath(*name.split(".")[1:])
    file = path.with_name(f"{path.name}.py")
    return file if file.exists() else path / "__init__.py"


class Reading(NamedTuple):
    """What a module imports anywhere, and what it defines or imports outside functions and
    classes."""

    imports: tuple[ast.ImportFrom, ...]
    names: frozenset[str]


@cache
def reading(path: Path) -> Reading:
    """Read a file once: others ask for the names of most."""
    return read(path.read_text())


def read(text: str) -> Reading:
    """Return what a module's text imports and defines."""
    imports: list[ast.ImportFrom] = []
    found: set[str] = set()
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(text), True)]
    while todo:
        node, top = todo.pop()
        if isinstance(node, ast.ImportFrom):
            imports.append(node)
        if top:
            found |= bound(node)
        inner = top and not isinstance(node, DEFINITIONS)
        # No import stands in an expression; names are bound in those outside functions too.
        todo += [
            (child, inner)
            for child in ast.iter_child_nodes(node)
            if inner or not isinstance(child, ast.expr)
        ]
    return Reading(tuple(sorted(imports, key=lambda node: node.lineno)), frozenset(found))


def bound(node: ast.AST) -> set[str]:
    """Return the names that a node itself binds."""
    if isinstance(node, DEFINITIONS):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(each.asname or each.name).split(".")[0] for each in node.names}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return {node.id}
    if isinstance(node, getattr(ast, "TypeAlias", ())):
        return {node.name.id}
    return set()


def missing(imports: Iterable[ast.ImportFrom], module: str) -> Iterator[str]:
    """Return those of a module's imports, of modules of ours, that find nothing."""
    for node in imports:
        base = module.split(".")[: -node.level] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        path = place(source)
        if path is None:
            continue
        if not path.exists() and not path.parent.is_dir():  # folders of tests have no __init__.py
            yield f"{module}:{node.lineno}: there is no {source}"
            continue
        known = reading(path).names if path.exists() else frozenset()
        for each in node.names:
            inner = place(f"{source}.{each.name}")
            lazy = "__getattr__" in known
            if not (lazy or each.name in known or (inner and inner.exists())):
                yield f"{module}:{node.lineno}: {source} has no {each.name}"


def test_imports_of_ours_find_what_they_name() -> None:
    found: list[str] = []
    for path in files():
        inside = path.relative_to(ROOT).with_suffix("").parts
        found += missing(reading(path).imports, ".".join(("weft", *inside)))
    assert not found, "\n".join(found)


def test_an_import_of_what_moved_is_found() -> None:
    text = (
        "def run():\n    from weft.runtime.schedule.admission import Forecast\n"
        "    from .nowhere import x\n    from weft.tests.runtime import toys\n"
    )
    assert list(missing(read(text).imports, "weft.bench.planted")) == [
        "weft.bench.planted:2: weft.runtime.schedule.admission has no Forecast",
        "weft.bench.planted:3: there is no weft.bench.nowhere",
        "weft.bench.planted:4: weft.tests.runtime has no toys",
    ]
