"""The `weft` command: its commands live in `cli/`, and load what they need when they run."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .ir.diagnostics import WeftError


INTERRUPTED = 130
"""The exit status of what Ctrl-C ended, as shells have it: 128 and the signal's number."""


def main() -> None:
    """Run the command line; a user's error is printed with its place and hint, and exits 1.

    Ctrl-C while the commands are still being loaded ends as it does later: without a traceback.
    """
    try:
        _main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _main() -> None:
    from .cli.app import app
    from .cli.errors import NestedTooDeeply, as_typed, of_system, with_lines
    from .ir.diagnostics import WeftError

    warnings.showwarning = _show_warning
    _prepare_output()
    try:
        try:
            app(prog_name="weft")
        finally:
            sys.stdout.flush()
    except WeftError as error:
        end(with_lines(as_typed(error)))
    except BrokenPipeError:  # who read the output has seen enough
        _drop_output()
        raise SystemExit(1) from None
    except OSError as error:
        _drop_output()
        end(of_system(error))
    except RecursionError:
        end(NestedTooDeeply())


def end(error: WeftError) -> NoReturn:
    """Print a user's error and end the process with status 1."""
    print(error.render(), file=sys.stderr, flush=True)
    if error.abrupt:
        sys.stdout.flush()
        os._exit(1)
    raise SystemExit(1) from None


def _prepare_output() -> None:
    """Have streams that take every text, also where the terminal's encoding has no such letter."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what standard output still holds nowhere: Python writes it once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *rest: Any) -> None:
    """Print a warning as a user's message: without the line of code that gave it."""
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
