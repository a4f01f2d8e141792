"""Solves the linear model of one batch exactly: a mixed-integer program over page counts.

HiGHS is the solver: a few integers and a dozen rows take it about a millisecond, where z3's
optimiser takes hundreds, and a search asks hundreds of such questions.
"""

from __future__ import annotations

from typing import Any

from ...ir.diagnostics import CapacityError
from .linear import RING, LinearModel, Row


class NoSolver(CapacityError):
    """The solver's package is missing."""

    kind = "setup error"
    template = "policy search needs the package highspy, which is not installed"
    hint = "pip install highspy; or search on another machine and carry the policy file"


def solve(model: LinearModel) -> tuple[dict[tuple[str, int], int], float] | None:
    """Return the counts of least seconds, and those seconds; None where no counts fit."""
    try:
        import highspy
    except ImportError:
        raise NoSolver() from None
    solver = highspy.Highs()
    solver.silent()
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 1e-9)
    variables = _variables(solver, model)
    step, prefill = solver.addVariable(0.0), solver.addVariable(0.0)
    for time, rows in ((step, model.step), (prefill, model.prefill)):
        for row in rows:
            solver.addConstr(time - _expression(row, variables) >= 0.0)
    for limit in model.limits:
        scale = 1.0 / max(abs(limit.most), 1.0)
        expression = _expression(limit.row.scaled(scale), variables)
        if isinstance(expression, float):
            if expression > limit.most * scale:
                return None
        else:
            solver.addConstr(expression <= limit.most * scale)
    for number, total in enumerate(model.totals):
        pages = [variables[home, number] for home in model.allowed]
        solver.addConstr(solver.qsum(pages) == total)
    solver.minimize(prefill + step * float(model.steps))
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    values = {key: round(solver.val(variable)) for key, variable in variables.items()}
    return values, model.seconds(values)


def _variables(solver: Any, model: LinearModel) -> dict[tuple[str, int], Any]:
    found = {
        (home, number): solver.addIntegral(0, total)
        for number, total in enumerate(model.totals)
        for home in model.allowed
    }
    found[RING] = solver.addIntegral(0, 2 * sum(model.totals) + 4)
    return found


def _expression(row: Row, variables: dict[tuple[str, int], Any]) -> Any:
    parts = [variables[key] * cost for key, cost in row.each.items() if cost and key in variables]
    total = parts[0] if parts else 0.0
    for part in parts[1:]:
        total = total + part
    return total + row.fixed
