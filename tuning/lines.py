"""The kernels of a step as a table, predicted beside measured: what `weft kernels` lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..cost_model.binding import Binding, Formats
from ..cost_model.hardware import Level
from ..cost_model.roofline import op_time
from ..cost_model.scene import Scene, Work
from ..ir.core import Operation, Term, Value
from ..ir.schedule import Schedule
from ..ir.types import dtype_of, shape_of
from .works import Launched, sparse_launches, works_of

if TYPE_CHECKING:
    from ..compiler import Compilation
    from ..passes.tile.regimes import Regime
    from ..runtime.execution.step import StepInput
    from ..runtime.execution.timing import BoundLaunch


@dataclass(frozen=True)
class KernelLine:
    """What one kernel of a step does for one shape; times are of one of its `launches`.

    `roof` is the time of its bytes and FLOPs at the device's rates, `predicted` has the launch
    too. `measured` is None where nothing was measured.
    """

    kernel: str
    operation: str
    shape: str
    schedule: str
    launches: int
    work: Work
    roof: float
    predicted: float
    measured: float | None = None

    @property
    def bytes_per_s(self) -> float | None:
        """What it moved a second."""
        return self.work.bytes / self.measured if self.measured else None

    @property
    def flops_per_s(self) -> float | None:
        """What it computed a second."""
        return self.work.flops / self.measured if self.measured else None

    @property
    def percent_of_roof(self) -> float | None:
        """The roof's time in percent of the measured; None where it has none."""
        return 100.0 * self.roof / self.measured if self.measured and self.roof else None

    def data(self) -> dict[str, Any]:
        """Return what `weft kernels --json` prints: times in microseconds, GB/s, TFLOP/s."""

        def scaled(value: float | None, factor: float) -> float | None:
            return None if value is None else value * factor

        return {
            "kernel": self.kernel, "operation": self.operation, "shape": self.shape,
            "schedule": self.schedule, "launches": self.launches, "bytes": self.work.bytes,
            "flops": self.work.flops, "predicted_us": self.predicted * 1e6,
            "measured_us": scaled(self.measured, 1e6), "gb_s": scaled(self.bytes_per_s, 1e-9),
            "tflop_s": scaled(self.flops_per_s, 1e-12), "percent_of_roof": self.percent_of_roof,
        }  # fmt: skip


def kernel_lines(
    compilation: Compilation, step: StepInput, binding: Binding, level: Level, measure: bool = True
) -> list[KernelLine]:
    """Return the kernels that a step launches, each shape once, in order of first launch."""
    executor: Any = compilation.executor
    launches = executor.launches(step)
    regime = regime_of(compilation.regimes, launches)
    launched = what_launches_do(compilation, regime, binding, level)
    calls = calls_of(regime)
    schedules = {op["name"].name: schedule for op, schedule in compilation.schedules}
    resident = sum(launched(call).work.resident_bytes for call in calls)
    groups: dict[tuple[str, str], list[int]] = {}
    doing = doing_of(calls, launches)
    for number, call in doing.items():
        kernel = launches[number].runs
        groups.setdefault((kernel, _shape_text(call, binding)), []).append(number)
    times: Sequence[float | None] = [None] * len(groups)
    if measure:
        times = executor.group_seconds(launches, groups.values())
    lines = []
    for ((kernel, shape), numbers), measured in zip(groups.items(), times, strict=True):
        does = launched(doing[numbers[0]])
        start = level.launch_cost(launch_mode(level, schedules.get(kernel)))
        seconds, memory, compute = op_time(does.work, level, start, resident)
        predicted = max(seconds.expected, does.seconds + start.median)
        lines.append(KernelLine(
            kernel, launches[numbers[0]].operation, shape, schedule_text(schedules.get(kernel)),
            len(numbers), does.work, max(memory, compute), predicted, measured,
        ))  # fmt: skip
    return lines


def regime_of(regimes: Sequence[Regime], launches: Sequence[BoundLaunch]) -> Regime:
    """Return the regime whose calls some launches are."""
    wanted = [each.kernel for each in launches]
    return next(r for r in regimes if [_callee(call) for call in calls_of(r)] == wanted)


def calls_of(regime: Regime) -> list[Operation]:
    """Return the launches of a regime, in order: kernels and library routines."""
    body = regime.function.regions[0].operations
    return [op for op in body if op.name in {"graph.call", "graph.library"}]


def doing_of(calls: Sequence[Operation], launches: Sequence[BoundLaunch]) -> dict[int, Operation]:
    """Return, by the number of each launch of a step that is one, the call whose work it does: its
    own, or that of the one before, where it stands in for that in steps like this one."""
    found: dict[int, Operation] = {}
    before: Operation | None = None
    for call, each in zip(calls, launches, strict=True):
        if each.idle:
            before = call if call.results else None
        else:
            found[each.number] = before or call
            before = None
    return found


def _callee(call: Operation) -> str:
    return call["kernel"].name if call.name == "graph.call" else call["routine"]


def _made_by(call: Operation) -> str:
    """Return the name of a call's first result; a call without one has no work of its own."""
    return call.results[0].name if call.results else ""


def what_launches_do(
    compilation: Compilation, regime: Regime, binding: Binding, level: Level
) -> Callable[[Operation], Launched]:
    """Return what says of a call what its launch does."""
    from ..compiler.formats import kv_dtype

    graph = next(r.before for r in regime.records if r.name == "lower-to-tiles")
    scene = Scene.of(graph, binding, Formats(kv=kv_dtype(compilation.options)))
    works, sparse = works_of(graph, scene), sparse_launches(regime, graph, scene, level)

    def launched(call: Operation) -> Launched:
        known = sparse.get(_callee(call))
        return known or Launched(works.get(_made_by(call), Work()))

    return launched


def _shape_text(call: Operation, binding: Binding) -> str:
    """Return the shapes of a call's tensors, results last: bf16[1,4096] bf16[6144,4096] > ..."""
    sides = (call.operands, call.results)
    texts = (" ".join(_one_shape(value, binding) for value in side) for side in sides)
    return " > ".join(text for text in texts if text)


def _one_shape(value: Value, binding: Binding) -> str:
    known = binding.known()
    dims = (known.get(d.name, d.name) if isinstance(d, Term) else d for d in shape_of(value.type))
    return f"{dtype_of(value.type)}[{','.join(map(str, dims))}]"


def launch_mode(level: Level, schedule: Schedule | None) -> str | None:
    """Return how a kernel is started: on a CPU by what it is scheduled as, on a GPU in a graph."""
    mode = "graph" if level.kind == "gpu" else "serial"
    if level.kind != "gpu" and (schedule is None or schedule.parallel):
        mode = "parallel"
    return mode if mode in level.launch else None


def schedule_text(schedule: Schedule | None) -> str:
    """Return what differs from the default schedule; library routines have none."""
    if schedule is None:
        return "library"
    usual = vars(Schedule())
    changed = {name: value for name, value in vars(schedule).items() if value != usual[name]}
    return " ".join(f"{name}={value}" for name, value in changed.items()) or "default"
