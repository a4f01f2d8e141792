"""The `weft` command: its commands live in `cli/`, and load what they need when they run."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .ir.diagnostics import WeftError


def main() -> None:
    """Run the command line; a user's error is printed with its place and hint, and exits 1."""
    from .cli.app import app
    from .cli.errors import as_typed, with_lines
    from .ir.diagnostics import WeftError

    warnings.showwarning = _show_warning
    try:
        app(prog_name="weft")
    except WeftError as error:
        end(with_lines(as_typed(error)))


def end(error: WeftError) -> NoReturn:
    """Print a user's error and end the process with status 1."""
    print(error.render(), file=sys.stderr, flush=True)
    if error.abrupt:
        sys.stdout.flush()
        os._exit(1)
    raise SystemExit(1) from None


def _show_warning(message: Warning | str, *rest: Any) -> None:
    """Print a warning as a user's message: without the line of code that gave it."""
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
