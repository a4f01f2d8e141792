"""The kernels of a step as a table, predicted beside measured, and the search for schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .cost_model.binding import Binding, Formats
from .cost_model.hardware import Level
from .cost_model.roofline import op_time
from .cost_model.scene import Scene, Work
from .ir.core import Operation, Term, Value
from .ir.schedule import Schedule
from .ir.types import dtype_of, shape_of
from .launch_works import Launched, sparse_launches, works_of

if TYPE_CHECKING:
    from .codegen.measure.autotune import Choice, Choices
    from .compiler import Compilation
    from .options import Options
    from .passes.tile.regimes import Regime
    from .runtime.execution.compiled_executor import CompiledExecutor
    from .runtime.execution.host_products import ProductChoice
    from .runtime.execution.short_steps import ShortSteps
    from .runtime.execution.step import StepInput
    from .runtime.execution.timing import BoundLaunch
    from .runtime.execution.weights import Weight

Report = Callable[[str], None]

Kept = TypeVar("Kept")


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
    regime = _regime_of(compilation.regimes, launches)
    launched = _launched(compilation, regime, binding, level)
    calls = _calls(regime)
    schedules = {op["name"].name: schedule for op, schedule in compilation.schedules}
    resident = sum(launched(call).work.resident_bytes for call in calls)
    groups: dict[tuple[str, str], list[int]] = {}
    doing = _doing(calls, launches)
    for number, call in doing.items():
        kernel = launches[number].kernel
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


def _regime_of(regimes: Sequence[Regime], launches: Sequence[BoundLaunch]) -> Regime:
    """Return the regime whose calls some launches are."""
    wanted = [each.kernel for each in launches]
    return next(r for r in regimes if [_callee(call) for call in _calls(r)] == wanted)


def _calls(regime: Regime) -> list[Operation]:
    body = regime.function.regions[0].operations
    return [op for op in body if op.name in {"graph.call", "graph.library"}]


def _doing(calls: Sequence[Operation], launches: Sequence[BoundLaunch]) -> dict[int, Operation]:
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


def _launched(
    compilation: Compilation, regime: Regime, binding: Binding, level: Level
) -> Callable[[Operation], Launched]:
    """Return what says of a call what its launch does."""
    from .loading import kv_dtype

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


def device_name(options: Options) -> str:
    """Return what choices of schedules hold for: the device, its threads, the compilers."""
    from importlib.metadata import version

    from .codegen.cache import host_signature

    if options.target == "cuda":
        from .runtime.devices.device import Device, NoGpu

        try:
            return f"{Device.find().name}, triton {version('triton')}"
        except NoGpu:  # kernels may be looked at where they cannot run
            return "no GPU"
    threads = options.thread_count
    return f"cpu {host_signature()}, {threads} threads, apache-tvm {version('apache-tvm')}"


def choices_of(options: Options) -> Choices:
    """Return the schedules that were chosen on this device."""
    from .codegen.cache import default_folder
    from .codegen.measure.autotune import Choices

    return Choices(options.cache or default_folder(), device_name(options))


def short_steps(executor: CompiledExecutor, options: Options) -> ShortSteps:
    """Return which steps of chunks run as decode steps: what is kept of this machine and a model
    of this shape, or what is measured now."""
    from .loading import kv_dtype, weight_dtype
    from .runtime.execution.short_steps import MOST_KEYS, MOST_PARTS, measured, read

    what = [repr(executor.config), weight_dtype(options), kv_dtype(options), executor.products.name]
    sizes = [executor.decode_rows, executor.max_tokens, MOST_PARTS, MOST_KEYS]
    parts = (*what, *map(str, sizes))
    return _kept("short", parts, options, read, lambda: measured(executor))


def host_products(weights: Mapping[str, Weight], options: Options) -> ProductChoice:
    """Return which library multiplies the f32 rows of long steps: what is kept of this machine and
    weights of these shapes, or what is measured now."""
    from .runtime.execution.host_products import measured, read

    matrices = (w.data.shape for w in weights.values() if w.data.dim() == 2)
    shapes = sorted({(shape[0], shape[1]) for shape in matrices})
    return _kept("product", (repr(shapes),), options, read, lambda: measured(shapes))


def _kept(
    kind: str, parts: Iterable[str], options: Options, read: Callable[[Mapping[str, Any]], Kept],
    measure: Callable[[], Kept],
) -> Kept:  # fmt: skip
    """Return a choice that was kept for this machine and these parts, or what is measured now."""
    from importlib.metadata import version

    from .codegen.cache import CacheFull, KernelCache, default_folder, key_of
    from .runtime.devices.kept_choice import kept

    home = KernelCache((options.cache or default_folder()) / "tuned")
    key = key_of(device_name(options), version("torch"), *parts)
    path = home.folder / f"{kind}-{key[:16]}.json"

    def keep(content: bytes) -> None:
        with suppress(CacheFull):  # it is measured anew by the next run
            if home.writable():
                home.write(path, content)

    return kept(path, read, measure, keep)


def search_schedules(
    compilation: Compilation, choices: Choices, steps: Iterable[tuple[StepInput, Binding]],
    level: Level, report: Report | None = None, build: Callable[..., Any] | None = None,
) -> dict[str, Choice]:  # fmt: skip
    """Measure schedules of the kernels that some steps launch, and keep the best of each: where
    they are in the step (on a CPU: between the other launches, in what these leave of its caches).

    `build(kernel, schedule)` gives what is launched instead (default: as the target compiles).
    """
    from .codegen.measure.autotune import search
    from .passes.tile.candidates import Demand, ranked

    executor: Any = compilation.executor
    usual = {op["name"].name: (op, schedule) for op, schedule in compilation.schedules}
    make, found = build or _builder(compilation.options), {}
    for step, binding in steps:
        launches = executor.launches(step)
        regime = _regime_of(compilation.regimes, launches)
        launched, calls = _launched(compilation, regime, binding, level), _calls(regime)
        doing = _doing(calls, launches)
        for name in dict.fromkeys(launches[number].kernel for number in doing):
            if name in found or name not in usual or choices.find(usual[name][0]):
                continue
            kernel, schedule = usual[name]
            numbers = [number for number in doing if launches[number].kernel == name]
            work = launched(doing[numbers[0]]).work
            programs = _programs(kernel, calls[numbers[0]], binding)
            demand = Demand(work.flops, work.bytes, programs, work.dtype, work.dense)
            ranking = [each.schedule for each in ranked(kernel, schedule, demand, level)]

            def time(tried: Schedule, kernel: Operation = kernel, numbers: Any = numbers,
                     launches: Any = launches) -> float | None:  # fmt: skip
                try:
                    made = make(kernel, tried)
                    step = [each.by(made) if each.number in numbers else each for each in launches]
                    return executor.group_seconds(step, [numbers])[0]
                except Exception:  # a schedule that needs more than the device has
                    return None

            found[name] = search(schedule, ranking, time)
            choices.keep(kernel, found[name])
            if report is not None:
                best = found[name]
                report(f"{name}: {best.tried} tried, {100 * best.gain:.0f} % saved by "
                       f"{schedule_text(best.schedule)}")  # fmt: skip
    return found


def _programs(kernel: Operation, call: Operation, binding: Binding) -> int:
    """Return about how many programs a launch has; unknown extents count as the step's tokens."""
    from .codegen.meaning.evaluate import Evaluator
    from .ir.expression import read

    known: dict[str, Any] = (
        dict.fromkeys((value.name for value in kernel.regions[0].arguments), binding.tokens)
        | binding.known()
    )
    return max(1, prod(int(read(extent, Evaluator(known))) for extent in kernel["grid"]))


def _builder(options: Options) -> Callable[[Operation, Schedule], Callable[..., Any]]:
    """Return what compiles a kernel in another schedule, as the target does."""
    folder: Path | None = options.cache

    def build(kernel: Operation, schedule: Schedule) -> Callable[..., Any]:
        if options.target == "cuda":
            from .codegen.build_cuda import load_kernels as compiled
        else:
            from .codegen.build import compile_kernels

            def compiled(kernels: Any, cache: Path | None) -> Any:
                return compile_kernels(kernels, "cpu", cache)

        return compiled([(kernel, schedule)], folder)[kernel["name"].name].launch

    return build
