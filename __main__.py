"""The `weft` command: its commands live in `cli/`, and load what they need when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a user's error is printed with its place and hint, and exits 1."""
    from .cli.app import app
    from .ir.diagnostics import WeftError

    try:
        app(prog_name="weft")
    except WeftError as error:
        print(error.render(), file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
