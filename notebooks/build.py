"""Runs the notebooks: `python notebooks/build.py [NAME ...]` writes NAME.ipynb from NAME.py.

A notebook is written as Python with `# %%` between cells (jupytext's percent form): that is what
is reviewed, linted and changed. Beside it stands the .ipynb that it gave when it was last run,
with its pictures, for whoever reads it without running it. With jupytext in one's Jupyter, a
change to either is written to both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
PAIRED = {"formats": "ipynb,py:percent"}
SECONDS_A_CELL = 500
"""Far more than one takes: what a busy machine begins late, or tells late, is no error."""

WITHOUT_SLIDERS = 'import sys\nsys.modules["ipywidgets"] = None\n'
"""What a kernel runs first. Sliders need a kernel: a notebook that is only read shows pictures."""


def names() -> list[str]:
    """Return the names of the notebooks, in their order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))


def source(name: str) -> Any:
    """Return a notebook as it is written, without outputs; a cell is named by its number."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "jupytext": PAIRED,
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
    return notebook


def execute(notebook: Any) -> Any:
    """Run a notebook's cells in a fresh kernel, in the folder of the notebooks; return it.

    Raises nbclient.exceptions.CellExecutionError with the cell and its traceback.
    """
    _reach_weft()
    with tempfile.TemporaryDirectory() as home:
        waits = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), SECONDS_A_CELL)
        startup = Path(home) / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "without_sliders.py").write_text(WITHOUT_SLIDERS)
        resources = {"metadata": {"path": str(FOLDER)}}
        # Reached by files in `home`: of a port, which others on the machine can read, it warns.
        client = NotebookClient(
            notebook, **waits, resources=resources, record_timing=False,
            config=Config(KernelManager={"transport": "ipc", "ip": f"{home}/kernel"}),
        )  # fmt: skip
        return client.execute(env={"IPYTHONDIR": home} | os.environ)


def write(name: str, notebook: Any) -> None:
    """Write an executed notebook, without what changes from one run to the next for no reason."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.validate(notebook)
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")


def _reach_weft() -> None:
    """Let the kernel import the weft that this process has."""
    import weft

    root = Path(weft.__file__).parent.parent
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root.name == ".pyroot" and str(root) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, known)])


def main() -> None:
    """Run the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names())}")
    wanted = parser.parse_args().names
    if unknown := [name for name in wanted if name not in names()]:
        parser.error(f"there is no notebook {unknown[0]!r}; there are {', '.join(names())}")
    for name in wanted or names():
        print(name, flush=True)
        write(name, execute(source(name)))


if __name__ == "__main__":
    main()
