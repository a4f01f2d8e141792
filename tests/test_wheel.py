"""The wheel holds the package `weft` and nothing else."""

import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


LEFT_OUT = {"bench", "docs", "examples", "notebooks", "tests", "zoo"}


def test_every_package_is_listed() -> None:
    """A package that setup.py does not name is in a checkout, and not in the wheel."""
    rooms = [file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name not in LEFT_OUT]
    folders = [file.parent for room in rooms for file in room.rglob("__init__.py")]
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = runpy.run_path(str(ROOT / "setup.py"))["ROOMS"]
    assert sorted(packages) == sorted(listed)


@pytest.mark.slow
def test_wheel_holds_only_the_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", str(tmp_path), str(tree)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"weft"}
    inner = {name.split("/")[1] for name in names if name.startswith("weft/")}
    assert not inner & {"setup.py", "conftest.py", "tests", "bench", "docs", "notebooks", "build"}
    for needed in (
        "weft/ir/text.lark",
        "weft/ir/display/display.css",
        "weft/explore/page/page.html",
        "weft/ir/core.py",
        "weft/cost_model/hardware/h200.json",
    ):
        assert needed in names
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ("ir", "frontend", "cost_model", "codegen", "passes", "runtime")
        for path in (tree / room).rglob("*.py")
        for path in [ROOT / path.relative_to(tree)]
    }
    assert modules <= {name.removeprefix("weft/") for name in names}
