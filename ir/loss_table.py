"""What policies of sparse attention were measured to lose: a table beside a checkpoint, and the
cheapest policy within a budget.

`weft evaluate --save` writes it: relative loss of held-out perplexity over dense, and the share of
the keys' and values' bytes that is read, by policy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .diagnostics import ModelError
from .sparse import BadPolicy, SparsePolicy, parse_policy
from .whole_file import write_whole

FILE_NAME = "attention_losses.json"
"""The name beside a checkpoint's config.json."""
_FORMAT = "weft attention losses 1"


class NoLossTable(ModelError):
    """A budget of loss for a model whose policies nobody has measured."""

    template = "max_loss goes by the measured loss of policies, and {problem}"
    hint = 'run: weft evaluate {model} --attention "dense,sparse(ratio=1/16),..." --save'


class LosesMore(ModelError):
    """A policy that is asked for, and loses more than a budget of loss allows."""

    template = "{policy} was measured to lose {loss:.2%}, and max_loss allows {budget:.2%}"
    hint = "allow more, or leave the policy out: max_loss takes the cheapest that keeps it"


class NoPolicyWithin(ModelError):
    """A budget of loss that no measured policy keeps."""

    template = "no measured policy loses at most {budget:.2%}: the least is {least:.2%}, {policy}"
    hint = "allow more, or measure others: weft evaluate {model} --attention ... --save"


@dataclass(frozen=True)
class MeasuredLoss:
    """A policy's text, its loss of perplexity (0.01: one percent), its share of bytes read."""

    policy: str
    loss: float
    bytes: float


def save_losses(file: str | Path, identity: str, rows: Iterable[MeasuredLoss]) -> None:
    """Write measured losses beside those that the file has of the same model; OSError passes."""
    path = Path(file)
    try:
        known = {row.policy: row for row in load_losses(path, identity, "")}
    except NoLossTable:
        known = {}
    known |= {row.policy: row for row in rows}
    body = {"format": _FORMAT, "model": identity, "rows": [asdict(r) for r in known.values()]}
    write_whole(path, json.dumps(body, indent=1) + "\n")


def load_losses(file: Path | None, identity: str, model: str) -> list[MeasuredLoss]:
    """Return the losses measured of a model; raises NoLossTable where there are none of it. `file`
    is None of a model that has no folder."""
    if file is None:
        hint = "take a model's folder, or a shipped model: losses are kept beside weights"
        raise NoLossTable(problem=f"{model} has no folder to keep one in", model=model, hint=hint)
    if not file.exists():
        raise NoLossTable(problem=f"there is no {FILE_NAME}", model=model)
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        rows = [MeasuredLoss(str(r["policy"]), float(r["loss"]), float(r["bytes"]))
                for r in raw["rows"]]  # fmt: skip
        for row in rows:
            parse_policy(row.policy)
            if not (math.isfinite(row.loss) and math.isfinite(row.bytes)):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, BadPolicy):
        raise NoLossTable(problem=f"{file} cannot be read", model=model) from None
    if raw.get("format") != _FORMAT or raw.get("model") != identity:
        raise NoLossTable(problem=f"{file} was measured of another model", model=model)
    return rows


def require_within(
    rows: Iterable[MeasuredLoss], policy: SparsePolicy, budget: float, model: str
) -> None:
    """Raise LosesMore where a policy was measured to lose more than `budget`, and NoLossTable where
    nobody measured it."""
    row = row_of(rows, policy)
    if row is None:
        hint = f'run: weft evaluate {model} --attention "dense,{policy}" --save'
        raise NoLossTable(problem=f"{policy} is not measured", model=model, hint=hint)
    if row.loss > budget:
        raise LosesMore(policy=str(policy), loss=row.loss, budget=budget)


def kept_by(rows: Iterable[MeasuredLoss], policy: SparsePolicy, budget: float) -> str:
    """Return how a measured policy keeps a budget, and which that read less do not, for people."""
    rows = list(rows)
    row = row_of(rows, policy)
    assert row is not None, "held to the budget before"
    cheaper = [f"{other.policy} {other.loss:.2%}" for other in sorted(rows, key=lambda r: r.bytes)
               if other.bytes < row.bytes and other.loss > budget]  # fmt: skip
    more = f"; what reads less loses more: {', '.join(cheaper)}" if cheaper else ""
    return (f"{policy} reads {row.bytes:.1%} of the bytes and was measured to lose {row.loss:.2%} "
            f"of perplexity, where max_loss allows {budget:.2%}{more}")  # fmt: skip


def row_of(rows: Iterable[MeasuredLoss], policy: SparsePolicy) -> MeasuredLoss | None:
    """Return what was measured of a policy, however its text is written."""
    return next((row for row in rows if parse_policy(row.policy) == policy), None)


def policy_within(rows: Iterable[MeasuredLoss], budget: float, model: str) -> SparsePolicy:
    """Return the policy that reads the fewest bytes of those that lose at most `budget`. Raises
    NoPolicyWithin."""
    parsed = [(row, parse_policy(row.policy)) for row in rows]
    found = [(row, policy) for row, policy in parsed if policy is not None]
    if not found:
        raise NoLossTable(problem="it has no sparse policy", model=model)
    fitting = [(row.bytes, row.policy, policy) for row, policy in found if row.loss <= budget]
    if not fitting:
        least = min((row for row, _ in found), key=lambda row: row.loss)
        raise NoPolicyWithin(budget=budget, least=least.loss, policy=least.policy, model=model)
    return min(fitting, key=lambda item: item[:2])[2]
