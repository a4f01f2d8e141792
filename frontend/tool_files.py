"""Finds the tools of a .weft file: `essay_judge.weft` has them in `essay_judge_tools.py`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.diagnostics import WeftNameError


class ToolsFileFails(WeftNameError):
    """A file of tools that Python cannot run."""

    template = "the tools of {path} cannot be loaded: {problem}"


def tools_beside(path: Path, names: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """Return those of the named functions that the file's sibling `<name>_tools.py` defines."""
    sibling = path.with_name(f"{path.stem}_tools.py")
    if not sibling.exists():
        return {}
    module = _load(sibling)
    return {name: getattr(module, name) for name in names if callable(getattr(module, name, None))}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"weft_tools.{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ToolsFileFails(path=path, problem=f"{type(error).__name__}: {error}") from error
    return module
