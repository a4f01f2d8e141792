"""The notebooks run from top to bottom, and what is committed of them is their source's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
QUICK = {"02_read_the_ir"}
MOST_BYTES = 500_000


def _load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_build", FOLDER / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load_build()
NAMES = build.names()
RUNS = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow], id=name) for name in NAMES
]


def committed(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def pictures(notebook: Any) -> int:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    shown = [kind for out in outputs for kind in out.get("data", {})]
    drawn = [out for out in outputs if "<svg" in str(out.get("data", {}).get("text/html", ""))]
    return len([kind for kind in shown if kind.startswith("image/")]) + len(drawn)


def with_changes(notebook: Any) -> Any:
    """Return the notebook as a reader may change it: cells with `again` say that instead."""
    for cell in notebook.cells:
        cell.source = cell.metadata.get("again", cell.source)
    return notebook


def problems(name: str, notebook: Any) -> list[str]:
    """Return what is wrong with a committed notebook."""
    text = nbformat.writes(notebook)
    written = [(cell.cell_type, cell.source) for cell in build.source(name).cells]
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    found = {
        "its cells are not those of its source": written
        != [(cell.cell_type, cell.source) for cell in notebook.cells],
        "it has an error": '"output_type": "error"' in text,
        "it shows a path of the machine that ran it": bool(
            re.search(r"/(work|tmp|root|home)/", text)
        ),
        "it has a slider, which only a kernel can show": "widget-view+json" in text,
        "it has no picture": not pictures(notebook),
        "it is too large": len(text) > MOST_BYTES,
        "it asks the reader to change nothing": not any(
            line.startswith("## Now change") for each in markdown for line in each.splitlines()
        ),
        "no cell says what a reader may change": not any(
            "again" in cell.metadata for cell in notebook.cells
        ),
    }
    return [what for what, wrong in found.items() if wrong]


def test_a_notebook_that_is_not_there_is_told(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["build.py", "01_write"])
    with pytest.raises(SystemExit) as caught:
        build.main()
    assert (
        caught.value.code == 2
        and "no notebook '01_write'; there are 01_w" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_whole(name: str) -> None:
    assert problems(name, committed(name)) == [], f"run: python notebooks/build.py {name}"


def test_every_quick_notebook_is_there() -> None:
    assert QUICK <= set(NAMES)


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_from_top_to_bottom(name: str) -> None:
    executed = build.execute(build.source(name))
    assert pictures(executed) == pictures(committed(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_with_what_the_reader_changes(name: str) -> None:
    changed = with_changes(build.source(name))
    assert pictures(build.execute(changed)) > 0


def test_a_failing_cell_is_found() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        build.execute(notebook)


def test_a_stale_notebook_is_found() -> None:
    name = NAMES[0]
    stale = committed(name)
    stale.cells[1].source += "\n# changed in Jupyter, not in the source"
    stale.cells[2].source = "see /home/me/weft"
    found = problems(name, stale)
    assert any("cells" in what for what in found) and any("path" in what for what in found)
