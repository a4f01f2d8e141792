"""The house's rules, held with `ast`: who may import whom, what loads torch, triton and tvm, sizes.

Each rule is a function from sources to findings; each is also shown a planted violation.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "ir": {"ir"},
    "frontend": {"frontend", "ir"},
    "cost_model": {"cost_model", "ir"},
    "codegen": {"codegen", "ir"},
    "passes": {"passes", "ir", "cost_model"},
    "runtime": {"runtime", "ir", "codegen"},
    "plots": {"plots", "ir", "cost_model", "passes"},
}
"""Rooms, and the rooms that each may import."""
MAY_IMPORT["compiler"] = {"compiler", *MAY_IMPORT}

FACES = ("cli", "evaluation", "explore", "tuning")
"""Rooms above the compiler, which may import all; their other manners are those of the rooms."""

IR_ORDER = ("display", "dialects", "verifier", "constraints", "sparse", "offload")
"""The rooms of ir, and the verifier: each imports itself and those before it."""

FRONTEND_ORDER = (
    "models", "checkpoints", "ast", "faults", "text", "unparse", "semantics", "python", "lowering",
    "open",
)  # fmt: skip
"""The rooms of frontend and the modules between them: each imports itself and those before it."""

RUNTIME_ORDER = (
    "tracing", "devices", "memory", "execution", "attention", "constraints", "schedule", "gpu",
    "offload", "engine", "programs", "session", "rows", "executable", "remote",
)  # fmt: skip
"""The runtime's rooms and the modules between them: each imports itself and those before it."""

TILE_ORDER = ("builder", "rows", "attention", "products", "selection", "sparse", "lowering")
"""The rooms of passes/tile: each imports itself and those before it."""

FROM_CODEGEN = {"codegen", "codegen.kernel", "codegen.addresses"}
"""What of codegen the runtime may see: kernels, and what their launches take."""

HEAVY = {
    "torch": ("codegen/", "runtime/", "cli/", "evaluation/"),
    "triton": ("codegen/triton/",),
    "tvm": ("codegen/tvm/", "codegen/build.py"),
    "matplotlib": ("plots/",),
}
"""Packages that are slow to load, and where alone they may be: the starts of paths."""

LAZY = {"triton", "tvm"}
"""Those that may only be imported inside functions."""

LONGEST = 400

Sources = dict[str, str]
"""Path below the root (with slashes) to text."""


class Import(NamedTuple):
    """One import: the module it names, as `weft.room.module` or an outer package, where it stands,
    and whether it is written relative to its own module."""

    path: str
    line: int
    target: str
    at_top: bool
    typing: bool
    relative: bool

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"


def sources() -> Sources:
    """Return the package's modules: rooms and the modules at the root."""
    files = [
        *ROOT.glob("*.py"),
        *(file for room in (*MAY_IMPORT, *FACES) for file in (ROOT / room).rglob("*.py")),
    ]
    return {
        file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
        for file in files
        if file.name != "setup.py"
    }


class Reading(NamedTuple):
    """What the rules ask of a module's text."""

    imports: tuple[Import, ...]
    documented: bool


@cache
def reading(path: str, text: str) -> Reading:
    """Read a module once for all rules: parsing is nearly all that they cost."""
    tree = ast.parse(text)
    return Reading(tuple(imports(path, tree)), bool(ast.get_docstring(tree)))


def imports(path: str, tree: ast.Module) -> Iterator[Import]:
    """Yield the imports of a module, relative ones resolved."""
    package = ["weft", *path.split("/")[:-1]]
    todo: list[tuple[ast.AST, bool, bool]] = [(tree, True, False)]
    while todo:
        node, top, typing = todo.pop()
        if isinstance(node, ast.If) and for_checkers(node.test):
            todo += [(child, top, True) for child in node.body]
            todo += [(child, top, typing) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(path, node.lineno, name.name, top, typing, False)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                joined = f"{stem}.{name.name}" if stem.startswith("weft") else stem
                yield Import(path, node.lineno, joined, top, typing, bool(node.level))
        inner = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        todo += [
            (child, inner, typing)
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, ast.expr)  # no import stands in an expression
        ]


def for_checkers(test: ast.expr) -> bool:
    """Tell whether a condition asks for TYPE_CHECKING."""
    names = {getattr(part, "id", None) or getattr(part, "attr", "") for part in ast.walk(test)}
    return "TYPE_CHECKING" in names


def every_import(tree: Sources) -> list[Import]:
    """Return the imports of all modules, without those for type checkers."""
    found = [each for path, text in tree.items() for each in reading(path, text).imports]
    return [each for each in found if not each.typing]


def room_of(path: str) -> str | None:
    first = path.split("/")[0]
    return first if first in MAY_IMPORT else None


def wrong_edges(tree: Sources) -> list[str]:
    """A room imports a room that it may not see: one above it, or beside it."""
    found = []
    for each in every_import(tree):
        room, parts = room_of(each.path), each.target.split(".")
        if room is None or parts[0] != "weft" or len(parts) < 2:
            continue
        if parts[1] not in MAY_IMPORT[room] and parts[1] in {*MAY_IMPORT, *FACES}:
            found.append(f"{each.where}: {room} imports {each.target}")
    return found


def runtime_sees_codegen(tree: Sources) -> list[str]:
    """The runtime imports more of codegen than its kernels' interface."""
    return [
        f"{each.where}: {each.target}"
        for each in every_import(tree)
        if room_of(each.path) == "runtime"
        and each.target.startswith("weft.codegen")
        and ".".join(each.target.split(".")[1:3]) not in FROM_CODEGEN
    ]


def upward_in_rooms(tree: Sources) -> list[str]:
    """A room of ir, frontend, the runtime or passes/tile imports one that stands above it."""
    found = []
    orders = {
        "ir": IR_ORDER, "frontend": FRONTEND_ORDER, "runtime": RUNTIME_ORDER,
        "passes.tile": TILE_ORDER,
    }  # fmt: skip
    for above, order in orders.items():
        place, start = {room: number for number, room in enumerate(order)}, f"weft.{above}."
        for each in every_import(tree):
            own = "weft." + each.path.removesuffix(".py").replace("/", ".")
            if own.startswith(start) and each.target.startswith(start):
                room, other = (
                    name.removeprefix(start).split(".")[0] for name in (own, each.target)
                )
                if room in place and place.get(other, 0) > place[room]:
                    found.append(f"{each.where}: {room} imports {each.target}")
    return found


def circles(tree: Sources) -> list[str]:
    """Modules of different folders that import each other, over whatever others between them."""
    modules = {
        "weft." + path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in tree
    }
    sees: dict[str, set[str]] = {path: set() for path in tree}
    for each in every_import(tree):
        named = modules.get(each.target) or modules.get(each.target.rpartition(".")[0])
        sees[each.path] |= {named} if named else set()

    def reached(path: str) -> set[str]:
        found, todo = set[str](), [path]
        while todo:
            new = sees[todo.pop()] - found
            found, todo = found | new, [*todo, *new]
        return found

    every = {path: reached(path) for path in tree}
    return [
        f"{path} and {other} import each other"
        for path in tree
        for other in every[path]
        if path < other and path in every[other]
        and path.rpartition("/")[0] != other.rpartition("/")[0]
    ]  # fmt: skip


def absolute_imports(tree: Sources) -> list[str]:
    """A room says `import weft.x` or `import x` of a room, and so may load it a second time."""
    return [
        f"{each.where}: import {each.target}"
        for path, text in tree.items()
        for each in reading(path, text).imports
        if not each.relative and each.target.split(".")[0] in {"weft", *MAY_IMPORT, *FACES}
    ]


def misplaced_heavy(tree: Sources) -> list[str]:
    """torch, triton or tvm imported where it may not be, or at a module's top where it is slow."""
    found = []
    for each in every_import(tree):
        package = each.target.split(".")[0]
        if package not in HEAVY:
            continue
        if not each.path.startswith(HEAVY[package]):
            found.append(f"{each.where}: imports {each.target}")
        elif package in LAZY and each.at_top:
            found.append(f"{each.where}: imports {each.target} outside of a function")
    return found


def too_long(tree: Sources) -> list[str]:
    """A file above the length at which it must be split."""
    lengths = {path: text.count("\n") for path, text in tree.items()}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST]


def undocumented(tree: Sources) -> list[str]:
    """A module without the sentence that says what it holds."""
    return [path for path, text in tree.items() if not reading(path, text).documented]


DOC = '"""Doc."""\n'
RULES: list[tuple[Callable[[Sources], list[str]], list[Sources]]] = [
    (wrong_edges, [
        {"ir/a.py": DOC + "from ..passes import manager\n"},
        {"passes/graph/a.py": DOC + "from ...codegen.build import build\n"},
        {"passes/a.py": DOC + "def f():\n    from .. import runtime\n"},
        {"codegen/a.py": DOC + "from ..cost_model.hardware import Level\n"},
        {"runtime/a.py": DOC + "from ..frontend import parser\n"},
        {"cost_model/a.py": DOC + "from ..compiler import compile\n"},
        {"compiler/a.py": DOC + "def f():\n    from ..tuning import lines\n"},
    ]),
    (runtime_sees_codegen, [{"runtime/a.py": DOC + "from ..codegen.build import build\n"}]),
    (upward_in_rooms, [
        {"ir/dialects/a.py": DOC + "from ..verifier import verify\n"},
        {"frontend/text/a.py": DOC + "from ..semantics.checker import check\n"},
        {"passes/tile/selection/a.py": DOC + "from ..lowering.lower import lower\n"},
        {"runtime/memory/a.py": DOC + "from ..schedule.batch import Batch\n"},
        {"runtime/engine.py": DOC + "def f():\n    from .programs import tasks\n"},
    ]),
    (circles, [
        {"compiler/a.py": DOC + "from ..tuning.b import x\n", "options.py": DOC,
         "tuning/b.py": DOC + "def f():\n    from ..compiler.a import y\n"},
    ]),
    (absolute_imports, [
        {"passes/a.py": DOC + "import weft.ir.core\n"},
        {"passes/a.py": DOC + "from ir.core import Module\n"},
    ]),
    (misplaced_heavy, [
        {"cost_model/a.py": DOC + "def f():\n    import torch\n"},
        {"frontend/a.py": DOC + "from torch import nn\n"},
        {"compiler/a.py": DOC + "import torch\n"},
        {"codegen/cache.py": DOC + "def f():\n    import tvm\n"},
        {"codegen/tvm/emit.py": DOC + "import tvm\n"},
        {"codegen/triton/emit.py": DOC + "class A:\n    import triton.language\n"},
    ]),
    (too_long, [{"ir/a.py": DOC + "x = 1\n" * LONGEST}]),
    (undocumented, [{"ir/a.py": "x = 1\n"}]),
]  # fmt: skip


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=lambda rule: rule.__name__)
def test_the_tree_obeys(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(sources()) == []


@pytest.mark.parametrize("folder", ["bench", "tests", "zoo"])
def test_no_file_outside_the_rooms_is_too_long(folder: str) -> None:
    files = (ROOT / folder).rglob("*.py")
    assert too_long({str(file.relative_to(ROOT)): file.read_text() for file in files}) == []


@pytest.mark.parametrize(
    "rule, planted",
    [(rule, tree) for rule, trees in RULES for tree in trees],
    ids=lambda part: getattr(part, "__name__", None) or next(iter(part)),
)
def test_a_planted_violation_is_found(
    rule: Callable[[Sources], list[str]], planted: Sources
) -> None:
    assert len(rule(planted)) == 1


def test_what_is_allowed_is_not_found() -> None:
    tree = {
        "passes/tile/a.py": DOC + "from ...ir.core import Module\nfrom ...cost_model import work\n",
        "runtime/b.py": DOC + "import torch\nfrom ..codegen.kernel import Kernel\n",
        "runtime/gpu/c.py": DOC + "from ..devices.staging import Staging\nfrom . import drawn\n",
        "codegen/tvm/emit.py": DOC + "def f():\n    from tvm.script import tirx\n",
        "frontend/c.py": DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    import torch\n",
        "compiler/a.py": DOC + "from ..runtime import engine\nfrom ..passes import pipeline\n",
    }
    assert [finding for rule, _ in RULES for finding in rule(tree)] == []


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "rooms", [["weft.ir.core", "weft.frontend.text.parser"], ["weft.cost_model.roofline"]]
)
def test_light_rooms_load_no_heavy_package(rooms: list[str]) -> None:
    code = (
        f"import sys, {', '.join(rooms)}; print([p for p in {sorted(HEAVY)} if p in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


def test_no_room_is_loaded_twice() -> None:
    """Import every module of the rooms, then look for one file under two names."""
    rooms = [path for path in sources() if "/" in path]
    names = [
        "weft." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in rooms
    ]
    code = (
        "import importlib, sys, collections\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "files = collections.defaultdict(list)\n"
        "for name, module in list(sys.modules.items()):\n"
        f"    file = getattr(module, '__file__', None) or ''\n"
        f"    if file.startswith({str(ROOT)!r}) and '.venv' not in file: files[file].append(name)\n"
        "print([names for names in files.values() if len(names) > 1])\n"
        "bare = [n for n in sys.modules if n.split('.')[0] in ('ir', 'passes', 'runtime')]\n"
        f"rooms = {sorted({path.split('/')[0] for path in rooms})}\n"
        "names = [name for found in files.values() for name in found]\n"
        "inner = [name for name in names if (name + '.').split('.')[1] in rooms]\n"
        "print(bare, len(inner))\n"
    )
    twice, bare = run_python(code).splitlines()
    assert twice == "[]"
    assert bare == f"[] {len(rooms)}"
