"""What policies of sparse attention were measured to lose: a table beside a checkpoint, and the
cheapest policy within a budget.

`weft evaluate --save` writes it: by policy the relative loss of held-out perplexity over dense, the
points of retrieval lost (percent of the questions), and the share of the keys' and values' bytes
that is read. A budget, 0.01 say, bounds both losses, each in its unit: one percent, and one point.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..diagnostics import ModelError
from ..whole_file import write_whole
from .policy import BadPolicy, SparsePolicy, parse_policy

FILE_NAME = "attention_losses.json"
"""The name beside a checkpoint's config.json."""
_FORMAT, _BEFORE = "weft attention losses 2", "weft attention losses 1"


class NoLossTable(ModelError):
    """A budget of loss for a model whose policies nobody has measured."""

    template = "max_loss goes by the measured loss of policies, and {problem}"
    hint = 'run: weft evaluate {model} --attention "dense,sparse(ratio=1/16),..." --save'


class LosesMore(ModelError):
    """A policy that is asked for, and loses more than a budget of loss allows."""

    template = "{policy} was measured to lose {lost}, and max_loss allows {allowed}"
    hint = "allow more, or leave the policy out: max_loss takes the cheapest that keeps it"


class NoPolicyWithin(ModelError):
    """A budget of loss that no measured policy keeps."""

    template = "no measured policy loses at most {allowed}: the nearest is {policy}, with {lost}"
    hint = "allow more, or measure others: weft evaluate {model} --attention ... --save"


@dataclass(frozen=True)
class MeasuredLoss:
    """What a policy, by its text, was measured to lose of perplexity (0.01: one percent) and of
    retrieval (1.0: one of a hundred questions) at the `length` of context where it loses most, and
    the share of bytes that it read of held-out text."""

    policy: str
    loss: float
    bytes: float
    points: float
    length: int

    @property
    def most(self) -> float:
        """The larger of both losses, as a share: what a budget must allow."""
        return max(self.loss, self.points / 100)

    def beyond(self, budget: float) -> str:
        """Return which losses a budget does not allow, for people; empty: it allows both."""
        parts = [f"{self.loss:.2%} of perplexity"] * (self.loss > budget)
        parts += [self._points] * (self.points / 100 > budget)
        return " and ".join(parts)

    @property
    def _points(self) -> str:
        return f"{self.points:.2f} points of retrieval at {self.length} tokens"

    def __str__(self) -> str:
        return f"{self.loss:.2%} of perplexity and {self._points}"


def worst_length(points: Mapping[int, Sequence[float]]) -> tuple[float, int]:
    """Return the most points of retrieval that are lost at a length of context, as the mean over
    its kinds of questions, and that length; `points` are by length, one of each kind."""
    means = {length: sum(each) / len(each) for length, each in points.items()}
    length = max(means, key=lambda length: means[length])
    return round(means[length], 2), length


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
        if raw["format"] == _BEFORE:
            raise NoLossTable(problem=f"{file} knows no losses of retrieval yet", model=model)
        rows = [MeasuredLoss(str(r["policy"]), float(r["loss"]), float(r["bytes"]),
                             float(r["points"]), int(r["length"]))
                for r in raw["rows"]]  # fmt: skip
        for row in rows:
            parse_policy(row.policy)
            if not all(map(math.isfinite, (row.loss, row.bytes, row.points))):
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
    if row.most > budget:
        raise LosesMore(policy=str(policy), lost=row.beyond(budget), allowed=_allowed(budget))


def kept_by(rows: Iterable[MeasuredLoss], policy: SparsePolicy, budget: float) -> str:
    """Return how a measured policy keeps a budget, and which that read less do not, for people."""
    rows = list(rows)
    row = row_of(rows, policy)
    assert row is not None, "held to the budget before"
    cheaper = [f"{other.policy} {other.beyond(budget)}"
               for other in sorted(rows, key=lambda other: other.bytes)
               if other.bytes < row.bytes and other.most > budget]  # fmt: skip
    more = f"; what reads less loses more: {', '.join(cheaper)}" if cheaper else ""
    return (f"{policy} reads {row.bytes:.1%} of the bytes and was measured to lose {row}, where "
            f"max_loss allows {_allowed(budget)}{more}")  # fmt: skip


def _allowed(budget: float) -> str:
    return f"{budget:.2%} and {100 * budget:.2f} points"


def row_of(rows: Iterable[MeasuredLoss], policy: SparsePolicy) -> MeasuredLoss | None:
    """Return what was measured of a policy, however its text is written."""
    return next((row for row in rows if parse_policy(row.policy) == policy), None)


def policy_within(rows: Iterable[MeasuredLoss], budget: float, model: str) -> SparsePolicy:
    """Return the policy that reads the fewest bytes of those that lose at most `budget`, of
    perplexity and of retrieval. Raises NoPolicyWithin."""
    parsed = [(row, parse_policy(row.policy)) for row in rows]
    found = [(row, policy) for row, policy in parsed if policy is not None]
    if not found:
        raise NoLossTable(problem="it has no sparse policy", model=model)
    fitting = [(row.bytes, row.policy, policy) for row, policy in found if row.most <= budget]
    if not fitting:
        nearest = min((row for row, _ in found), key=lambda row: row.most)
        raise NoPolicyWithin(allowed=_allowed(budget), lost=str(nearest), policy=nearest.policy,
                             model=model)  # fmt: skip
    return min(fitting, key=lambda item: item[:2])[2]
