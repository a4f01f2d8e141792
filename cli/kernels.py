"""`weft kernels`: a step's kernels with schedules, predicted and measured times, and roofs."""

from __future__ import annotations

import json as text
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .explain import check_size, decode_input, with_room
from .hardware import gpu_hardware, hardware_here
from .render import emit, remarks
from .run import attention_options

if TYPE_CHECKING:
    from ..compiler import Compilation
    from ..cost_model.binding import Binding
    from ..cost_model.hardware import Hardware
    from ..runtime.execution.step import StepInput
    from ..tuning.lines import KernelLine

PROGRAM = 'program nothing() -> str:\n    return ""\n'
"""A program, where only the model's kernels are looked at."""

PREFILL = "tokens of a prompt (--prefill)"


@dataclass(frozen=True)
class KernelOptions:
    """The options of `weft kernels`, as the command line has them."""

    model: str
    target: str
    weights: str
    kv: str
    attention: str
    max_loss: float | None
    threads: int
    batch: int
    context: int
    prefill: int
    measure: bool
    tune: bool
    json: bool


def kernels(options: KernelOptions) -> None:
    """Print the table of a decode step, or of one that reads a prompt; search first if asked."""
    from ..tuning.around import around_lines
    from ..tuning.lines import kernel_lines

    compilation = _compilation(options)
    hardware = gpu_hardware() if compilation.on_gpu else hardware_here()
    level = hardware.level()
    if options.tune:
        _search(compilation, hardware)
        compilation = _compilation(options)  # with what was chosen
    step, binding = _step(compilation, options)
    lines = kernel_lines(compilation, step, binding, level, options.measure)
    if compilation.on_gpu:
        rows = step.logits_rows.shape[0]
        lines += around_lines(compilation, rows, level, options.measure)
    if options.json:
        emit(text.dumps([line.data() for line in lines]))
        return
    kind = f"a prompt of {options.prefill} tokens" if options.prefill else (
        f"a decode step of {options.batch} x {options.context} tokens")  # fmt: skip
    emit(f"{options.model}, {kind}, on {hardware.name}")
    emit(table_of(lines))
    if options.measure and not compilation.on_gpu:
        executor: Any = compilation.executor
        emit(executor.products.describe())
        emit(executor.short.describe(executor.short_tokens))


def _compilation(options: KernelOptions) -> Compilation:
    from ..compiler import Compilation
    from ..options import Options

    given: dict[str, Any] = {"target": options.target}
    given |= {name: value for name in ("weights", "kv", "threads")
              if (value := getattr(options, name))}  # fmt: skip
    given |= attention_options(options.attention, options.max_loss, options.batch)
    chosen = with_room(Options.from_env().changed(**given), options.batch, options.prefill)
    compilation = Compilation(PROGRAM, options.model, options=chosen)
    checkpoint = compilation.checkpoint  # a wrong name is refused before anything is said
    if options.prefill and checkpoint:
        check_size(PREFILL, options.prefill, checkpoint.config.context_length)
    return compilation


def _step(compilation: Compilation, options: KernelOptions) -> tuple[StepInput, Binding]:
    from ..cost_model.binding import decode, prefill

    if options.prefill:
        return prefill_input(compilation.executor, options.prefill), prefill(options.prefill)
    step = decode_input(compilation.executor, options.batch, options.context)
    return step, decode(options.batch, options.context)


def prefill_input(executor: Any, tokens: int) -> StepInput:
    """Return a step that reads a prompt of so many tokens, and wants its last row's logits.

    Raises BadOption where the executor has no room for it.
    """
    import torch

    from ..runtime.execution.step import StepInput

    most = min(executor.max_tokens, executor.context_length)
    check_size(PREFILL, tokens, most)
    pages = -(-tokens // executor.page_size)
    at = torch.arange(tokens, dtype=torch.int32)
    table = torch.arange(pages, dtype=torch.int32) % executor.num_pages
    slots = table[(at // executor.page_size).long()] * executor.page_size + at % executor.page_size
    ends = torch.tensor([0, tokens], dtype=torch.int32)
    return StepInput(at % 100, at, slots, ends, ends[1:].clone(), table[None].contiguous(),
                     at[-1:].clone())  # fmt: skip


def _search(compilation: Compilation, hardware: Hardware) -> None:
    """Search schedules for the kernels of decode steps of each size, and of a prompt's step."""
    from ..compiler.choices import choices_of
    from ..cost_model.binding import decode, prefill
    from ..tuning.search import search_schedules

    executor, steps = compilation.executor, []
    rows = sorted({min(r.rows or 1, executor.max_batch) for r in compilation.regimes})
    for batch in rows:
        steps.append((decode_input(executor, batch), decode(batch, 256)))
    tokens = min(256, executor.max_tokens, executor.context_length)
    steps.append((prefill_input(executor, tokens), prefill(tokens)))
    search_schedules(compilation, choices_of(compilation.options), steps, hardware.level(),
                     lambda line: remarks().print(line, markup=False))  # fmt: skip


HEADER = ("kernel", "shape", "schedule", "n", "predicted us", "measured us", "GB/s", "TFLOP/s",
          "% of roof")  # fmt: skip


def table_of(lines: list[KernelLine]) -> str:
    """Return the lines as an aligned text table."""
    from ..cost_model.report import table

    def figure(value: float | None, form: str = ".1f") -> str:
        return "-" if value is None else format(value, form)

    rows = []
    for line in lines:
        data = line.data()
        rows.append((
            line.kernel, line.shape, line.schedule, str(line.launches),
            figure(data["predicted_us"]), figure(data["measured_us"]), figure(data["gb_s"]),
            figure(data["tflop_s"], ".3f"), figure(data["percent_of_roof"], ".0f"),
        ))  # fmt: skip
    return table(HEADER, rows)
