"""weft compiles structured-generation programs to kernels and runs them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .codegen.threads import let_library_sleep

if TYPE_CHECKING:
    from .compiler import compile
    from .frontend.python.embedded import between, grammar, limit, matching, program, schema, tool
    from .ir.diagnostics import WeftError
    from .options import Options
    from .runtime.executable import Executable

__version__ = "0.1.0"

let_library_sleep()  # before any module loads torch

_HOMES = {
    "compile": "compiler",
    "Options": "options",
    "program": "frontend.python.embedded",
    "tool": "frontend.python.embedded",
    "between": "frontend.python.embedded",
    "limit": "frontend.python.embedded",
    "matching": "frontend.python.embedded",
    "schema": "frontend.python.embedded",
    "grammar": "frontend.python.embedded",
    "Executable": "runtime.executable",
    "WeftError": "ir.diagnostics",
}

__all__ = [
    "Executable", "Options", "WeftError", "between", "compile", "grammar", "limit", "matching",
    "program", "schema", "tool",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use (PEP 562), so `import weft` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
