"""The `weft` command: its commands live in `cli/`, and load what they need when they run."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def main() -> None:
    """Run the command line; a user's error is printed with its place and hint, and exits 1."""
    from .cli.app import app
    from .cli.errors import with_lines
    from .ir.diagnostics import WeftError

    warnings.showwarning = _show_warning
    try:
        app(prog_name="weft")
    except WeftError as error:
        print(with_lines(error).render(), file=sys.stderr)
        raise SystemExit(1) from None


def _show_warning(message: Warning | str, *rest: Any) -> None:
    """Print a warning as a user's message: without the line of code that gave it."""
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
