"""How wrong predictions of offloaded runs are: this model and the published one, beside what was
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ..ir.diagnostics import WeftError
from .hardware import Hardware
from .hrm.paper import PaperMachine, layer_times
from .hrm.prediction import Prediction, predict
from .hrm.shape import MoeShape, Workload
from .placement import Home
from .policy import Policy
from .report import table


class NothingMeasured(WeftError):
    """Errors of no settings."""

    kind = "measurement error"
    template = "there is no measured setting to compare with"


@dataclass(frozen=True)
class Setting:
    """One measured run: its policy and workload, and seconds; 0 where that was not measured.

    `step_s` is a decode step in the middle of the run, `total_s` all prompts and all steps.
    """

    name: str
    shape: MoeShape
    policy: Policy
    workload: Workload
    step_s: float = 0.0
    total_s: float = 0.0
    staged: bool = False


@dataclass(frozen=True)
class Error:
    """A measured time beside both predictions, in seconds; `what` is layer, step or total."""

    name: str
    what: str
    measured: float
    predicted: float
    low: float
    high: float
    paper: float

    @property
    def relative(self) -> float:
        """|predicted / measured - 1|."""
        return abs(self.predicted / self.measured - 1.0)

    @property
    def paper_relative(self) -> float:
        """The same of the published form."""
        return abs(self.paper / self.measured - 1.0)

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted interval."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Errors:
    """All comparisons, and their summary."""

    each: tuple[Error, ...]

    def summary(self) -> dict[str, float]:
        """Return medians and maxima, by the keys of the benchmark's last line."""
        mine, paper = zip(*((e.relative, e.paper_relative) for e in self.each), strict=True)
        return {
            "hrm_error_median": median(mine), "hrm_error_max": max(mine),
            "paper_error_median": median(paper), "paper_error_max": max(paper),
            "hrm_inside": sum(e.inside for e in self.each) / len(self.each),
        }  # fmt: skip

    def text(self) -> str:
        """Return a table of the comparisons and a line of the summary."""
        header = ("setting", "what", "measured s", "predicted s", "range s", "error", "paper s",
                  "paper error")  # fmt: skip
        rows = [
            (e.name, e.what, f"{e.measured:.4f}", f"{e.predicted:.4f}",
             f"{e.low:.4f}-{e.high:.4f}", f"{e.relative:.1%}", f"{e.paper:.4f}",
             f"{e.paper_relative:.1%}")
            for e in self.each
        ]  # fmt: skip
        s = self.summary()
        return table(header, rows) + (
            f"error: median {s['hrm_error_median']:.1%}, worst {s['hrm_error_max']:.1%}; "
            f"published form: median {s['paper_error_median']:.1%}, worst "
            f"{s['paper_error_max']:.1%}\n"
        )


def prediction_errors(settings: Sequence[Setting], hardware: Hardware) -> Errors:
    """Return the errors of both models on measured settings; raises NothingMeasured."""
    found = tuple(error for setting in settings for error in _errors(setting, hardware))
    if not found:
        raise NothingMeasured()
    return Errors(found)


def _errors(setting: Setting, hardware: Hardware) -> Iterable[Error]:
    if not (setting.step_s or setting.total_s):
        return
    predicted = predict(
        setting.policy, setting.shape, setting.workload, hardware, staged=setting.staged
    )
    paper = paper_step(setting, hardware)
    layers, step = setting.shape.layers, predicted.step
    if setting.step_s:
        times = (setting.step_s, step.expected, step.low, step.high, paper)
        yield Error(setting.name, "step", *times)
        yield Error(setting.name, "layer", *(each / layers for each in times))
    if setting.total_s:
        expected, low, high = _totals(predicted, setting.workload)
        steps = setting.workload.new - 1
        yield Error(setting.name, "total", setting.total_s, expected, low, high, paper * steps)


def _totals(predicted: Prediction, workload: Workload) -> tuple[float, float, float]:
    steps = workload.new - 1
    return (
        predicted.prefill.expected + steps * predicted.step.expected,
        predicted.prefill.low + steps * predicted.step.low,
        predicted.prefill.high + steps * predicted.step.high,
    )


def paper_step(setting: Setting, hardware: Hardware) -> float:
    """Return what the published form predicts for a decode step: L times T of its equation 12."""
    policy = setting.policy
    times = layer_times(
        setting.shape, setting.workload, PaperMachine.of(hardware), policy.micro_batch,
        policy.micro_batches, policy.share(Home.RESIDENT), policy.attention,
    )  # fmt: skip
    return setting.shape.layers * max(times.values())
