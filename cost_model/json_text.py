"""JSON texts that people write for the cost model: what is wrong with one, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir import strict_json
from ..ir.diagnostics import WeftError


def value_of(text: str, refused: Callable[[str, str], WeftError]) -> Any:
    """Return the value of a JSON text; raises what `refused` makes of a place and a problem."""
    try:
        return strict_json.loads(text)
    except strict_json.Malformed as error:
        where = f"line {error.line} column {error.column}"
        raise refused(where, f"no JSON: {error.said}") from None
    except RecursionError:
        raise refused("top", "it is nested too deeply") from None
    except ValueError as error:
        raise refused("top", str(error)) from None
