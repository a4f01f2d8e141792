"""That what files import from each other is there, also where a function does it when it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


@cache
def names(path: Path) -> frozenset[str]:
    """Return what a module defines or imports outside functions and classes."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(each.asname or each.name).split(".")[0] for each in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if isinstance(node, getattr(ast, "TypeAlias", ())):
            found.add(node.name.id)
        todo += ast.iter_child_nodes(node)
    return frozenset(found)


def missing(text: str, module: str) -> Iterator[str]:
    """Return the imports of a module's text, of modules of ours, that find nothing."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = module.split(".")[: -node.level] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        path = place(source)
        if path is None:
            continue
        if not path.exists() and not path.parent.is_dir():  # folders of tests have no __init__.py
            yield f"{module}:{node.lineno}: there is no {source}"
            continue
        known = names(path) if path.exists() else frozenset()
        for each in node.names:
            inner = place(f"{source}.{each.name}")
            lazy = "__getattr__" in known
            if not (lazy or each.name in known or (inner and inner.exists())):
                yield f"{module}:{node.lineno}: {source} has no {each.name}"


def test_imports_of_ours_find_what_they_name() -> None:
    found: list[str] = []
    for path in files():
        inside = path.relative_to(ROOT).with_suffix("").parts
        found += missing(path.read_text(), ".".join(("weft", *inside)))
    assert not found, "\n".join(found)


def test_an_import_of_what_moved_is_found() -> None:
    text = (
        "def run():\n    from weft.runtime.schedule.admission import Forecast\n"
        "    from .nowhere import x\n    from weft.tests.runtime import toys\n"
    )
    assert list(missing(text, "weft.bench.planted")) == [
        "weft.bench.planted:2: weft.runtime.schedule.admission has no Forecast",
        "weft.bench.planted:3: there is no weft.bench.nowhere",
        "weft.bench.planted:4: weft.tests.runtime has no toys",
    ]
