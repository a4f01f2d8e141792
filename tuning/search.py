"""The search for schedules: the kernels that steps launch, each tried in others where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost_model.binding import Binding
from ..cost_model.hardware import Level
from ..ir.core import Operation
from ..ir.schedule import Schedule
from .lines import calls_of, doing_of, regime_of, schedule_text, what_launches_do

if TYPE_CHECKING:
    from ..codegen.measure.autotune import Choice, Choices
    from ..compiler import Compilation
    from ..options import Options
    from ..runtime.execution.step import StepInput

Report = Callable[[str], None]


def search_schedules(
    compilation: Compilation, choices: Choices, steps: Iterable[tuple[StepInput, Binding]],
    level: Level, report: Report | None = None, build: Callable[..., Any] | None = None,
) -> dict[str, Choice]:  # fmt: skip
    """Measure schedules of the kernels that some steps launch, and keep the best of each: where
    they are in the step (on a CPU: between the other launches, in what these leave of its caches).
    Where a step's lists are cut for a kernel of another way, that one is searched.

    `build(kernel, schedule)` gives what is launched instead (default: as the target compiles).
    """
    from ..codegen.measure.autotune import search
    from ..passes.tile.candidates import Demand, ranked

    executor: Any = compilation.executor
    usual = {op["name"].name: (op, schedule) for op, schedule in compilation.schedules}
    make, found = build or _builder(compilation.options), {}
    for step, binding in steps:
        launches = executor.launches(step)
        regime = regime_of(compilation.regimes, launches)
        launched = what_launches_do(compilation, regime, binding, level)
        doing = doing_of(calls_of(regime), launches)
        for name in dict.fromkeys(launches[number].runs for number in doing):
            if name in found or name not in usual or choices.find(usual[name][0]):
                continue
            kernel, schedule = usual[name]
            numbers = [number for number in doing if launches[number].runs == name]
            work = launched(doing[numbers[0]]).work
            programs = _programs(kernel, binding)
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


def _programs(kernel: Operation, binding: Binding) -> int:
    """Return about how many programs a launch has; unknown extents count as the step's tokens."""
    from ..codegen.meaning.evaluate import Evaluator
    from ..ir.expression import read

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
            from ..codegen.build_cuda import load_kernels as compiled
        else:
            from ..codegen.build import compile_kernels

            def compiled(kernels: Any, cache: Path | None) -> Any:
                return compile_kernels(kernels, "cpu", cache)

        return compiled([(kernel, schedule)], folder)[kernel["name"].name].launch

    return build
