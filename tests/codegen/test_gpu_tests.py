"""That each kernel has a test on a GPU: it is built by what a test marked `gpu` imports.

Followed by name, from the tests' modules to functions of `passes/tile`: a function counts as used
where a module names it that has such tests, or one that this imports from the tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TILE = "weft.passes.tile"
Place = tuple[str, str]
"""A module and a name in it."""

OTHERS = (f"{TILE}.lowering", f"{TILE}.sections", f"{TILE}.meeting")
"""What returns operations that are no kernels, or kernels made of others."""

MARKED = re.compile(r"^(@| +)pytest\.mark\.gpu\b", re.MULTILINE)

OF_CPUS = {("weft.passes.tile.sparse.held_attention", "held_decode")}
"""Kernels of steps on a CPU alone."""


def path_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")[1:])
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py")
                 if each.exists()), None)  # fmt: skip


@cache
def tree_of(module: str) -> ast.Module:
    path = path_of(module)
    return ast.parse(path.read_text()) if path else ast.Module([], [])


@cache
def imported(module: str) -> dict[str, Place]:
    """Return what a module imports from others of ours, by the name that it has there; of a whole
    module the second name is empty."""
    found: dict[str, Place] = {}
    path = path_of(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.ImportFrom):
            continue
        up = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
        source = ".".join([*(up if node.level else ()), *([node.module] if node.module else ())])
        for each in node.names if source.startswith("weft") else ():
            whole = f"{source}.{each.name}"
            place = (whole, "") if path_of(whole) else (source, each.name)
            found[each.asname or each.name] = place
    return found


def named(nodes: Iterable[ast.AST], module: str) -> set[Place]:
    """Return the places of what some nodes of a module name."""
    known, found = imported(module), set()
    for node in (each for top in nodes for each in ast.walk(top)):
        if isinstance(node, ast.Name):
            found.add(known.get(node.id, (module, node.id)))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, name = known.get(node.value.id, ("", ""))
            found |= {(source, node.attr)} if not name else set()
    return found


def modules_on_a_gpu() -> set[str]:
    """Return the modules that have such tests, and what they import from the tests."""
    files = [path for path in (ROOT / "tests/codegen").glob("test_*.py")
             if MARKED.search(path.read_text())]  # fmt: skip
    found, todo = set(), [f"weft.tests.codegen.{path.stem}" for path in files]
    while todo:
        if (module := todo.pop()) not in found:
            found.add(module)
            sources = {source for source, _ in imported(module).values()}
            todo += [source for source in sources if source.startswith("weft.tests")]
    return found


def reached(start: set[Place]) -> set[Place]:
    """Return the functions and classes of `passes/tile` that some places lead to."""
    found, todo = set(), list(start)
    while todo:
        place = todo.pop()
        if place in found or not place[0].startswith(TILE):
            continue
        found.add(place)
        nodes = [
            node
            for node in tree_of(place[0]).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == place[1]
        ]
        todo += named(nodes, place[0])
    return found


def kernels() -> set[Place]:
    """Return the functions that return a kernel of their own."""
    found = set()
    for path in (ROOT / "passes/tile").rglob("*.py"):
        module = ".".join(["weft", *path.relative_to(ROOT).with_suffix("").parts])
        found |= {
            (module, node.name)
            for node in tree_of(module).body
            if isinstance(node, ast.FunctionDef)
            and not (node.name.startswith("_") or module.startswith(OTHERS))
            and node.returns is not None and ast.unparse(node.returns) == "Operation"
        }  # fmt: skip
    return found


def test_every_kernel_is_run_on_a_gpu() -> None:
    start = set().union(*(named(tree_of(each).body, each) for each in modules_on_a_gpu()))
    everything = kernels()
    assert len(everything) > 50
    assert everything - reached(start) == OF_CPUS


def test_a_kernel_that_no_such_test_names_is_found() -> None:
    start = {("weft.passes.tile.attention.ways", "launches")}
    assert ("weft.passes.tile.attention.parts", "attention_parts") in reached(start)
    assert ("weft.passes.tile.attention.grouped", "grouped") in kernels() - reached(start)
