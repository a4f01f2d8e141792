"""Loads emitted Triton files: they are kept under their content's name, as Triton needs them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ...ir.diagnostics import KernelError
from ...ir.whole_file import write_whole
from ..cache import temporary_folder
from .launch import launcher
from .source import TritonSource


class NoTriton(KernelError):
    """Kernels for a GPU where Triton is not installed."""

    template = "kernels for a GPU need the package triton, which is not installed"
    hint = "pip install 'triton>=3.6' (the extra `gpu` of weft); a GPU is needed to run them"


def load_module(source: TritonSource, folder: Path) -> ModuleType:
    """Write the file if it is new, and import it, and with it Triton; raises NoTriton.

    Where the folder takes none, it lies in a temporary one, as Triton reads it while this process
    lives; Triton's own cache finds what it compiled by the file's text, wherever that lies.
    """
    loaded = sys.modules.get(source.module)
    if loaded is not None:
        return loaded
    path = folder / f"{source.module}.py"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, source.text)
    except OSError:
        path = _elsewhere() / path.name
        write_whole(path, source.text)
    spec = importlib.util.spec_from_file_location(source.module, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise NoTriton() from None
    sys.modules[source.module] = module
    return module


@cache
def _elsewhere() -> Path:
    return temporary_folder()


def load_launcher(source: TritonSource, folder: Path) -> Callable[..., Any]:
    """Return `launch(*arguments)`: arguments as the kernel's, buffers as tensors."""
    return launcher(load_module(source, folder))
