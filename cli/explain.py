"""`weft explain`: what the passes did, and what a step costs, predicted beside measured."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hardware import hardware_of
from .offload import offload_options
from .render import emit
from .rows import read_rows
from .run import attention_options, key_options, remote_options

if TYPE_CHECKING:
    from ..compiler import Compilation
    from ..cost_model.hardware import Hardware
    from ..cost_model.roofline import OpCost
    from ..options import Options
    from ..runtime.execution.timing import BoundLaunch

CONTEXT = 256
"""Tokens that each sequence of the priced decode step has."""

MOST_SEQUENCES = 4096
"""Sequences of a step that may be looked at: each has a row of logits."""

_PRICED_AS = {"graph.finalize": "graph.partial"}
"""An attention kernel computes partial, merge and finalize; its work is that of the partial."""


@dataclass(frozen=True)
class ExplainOptions:
    """The options of `weft explain`, as the command line has them."""

    file: Path
    model: str
    program: str | None
    target: str
    hardware: str
    weights: str
    threads: int
    batch: int
    measure: bool
    kv_memory: str
    kv_host_memory: str
    attention: str
    max_loss: float | None
    remote: list[str] | None
    rows: Path | None
    gpu_memory: str
    host_memory: str
    offload: list[str] | None
    offload_policy: Path | None


def explain(options: ExplainOptions) -> None:
    """Print the passes' remarks, then the price of a decode step by kind of operation."""
    from ..compiler import Compilation
    from ..compiler.remote_model import check_options
    from ..options import Options

    given: dict[str, Any] = {"weights": options.weights} if options.weights else {}
    given |= remote_options(options.remote)
    given |= offload_options(options, options.target, given)
    given |= key_options(options.kv_memory, options.kv_host_memory)
    chosen = Options.from_env().changed(target=options.target, **given)
    if options.threads:
        chosen = chosen.changed(threads=options.threads)
    chosen = chosen.changed(**attention_options(options.attention, options.max_loss, options.batch))
    chosen = with_room(chosen, options.batch)
    compilation = Compilation(options.file, options.model, name=options.program, options=chosen)
    check_options(chosen, compilation.remote)
    rows = list(read_rows(options.rows)) if options.rows is not None else []
    hardware = _hardware(compilation, options.hardware)
    emit(compilation.explain())
    if options.rows is not None and compilation.remote is None:
        from ..passes.program.prefixes.text import draw_tree

        emit("")
        emit(draw_tree(compilation.prefix_tree(rows)))
    if hardware is not None:
        emit("")
        emit(_prices(compilation, options, hardware))


def _hardware(compilation: Compilation, name: str) -> Hardware | None:
    """Return what a step is priced by; None where it is another's to price. Raises BadOption."""
    from ..options import BadOption

    elsewhere = compilation.remote is not None
    if not elsewhere and compilation.offloading is None:
        return hardware_of(name, compilation.on_gpu)
    if name:
        why = "the endpoint's" if elsewhere else "priced by `weft tune --hardware`"
        raise BadOption(problem=f"--hardware {name}: what a step costs here is {why}",
                        hint="leave it out")  # fmt: skip
    return None


def _prices(compilation: Compilation, options: ExplainOptions, hardware: Hardware) -> str:
    """Return predicted and measured time of a decode step, one line a kind of operation."""
    from ..cost_model.report import compare, comparison_table, grouped, step_table
    from ..cost_model.roofline import step

    costs = priced_step(compilation, options.batch, hardware)
    title = f"a decode step: batch {options.batch}, {CONTEXT} tokens each, on {hardware.name}"
    if not options.measure or compilation.on_gpu:
        return f"{title}\n{step_table(step(costs))}"
    predicted: dict[str, Any] = {}
    for cost in grouped(costs):
        name = cost.operation
        predicted[name] = cost.seconds if name not in predicted else predicted[name] + cost.seconds
    measured = measure_step(compilation, options.batch)
    return f"{title}\n{comparison_table(compare(predicted, measured))}"


def priced_step(compilation: Compilation, batch: int, hardware: Hardware) -> list[OpCost]:
    """Return the price of each operation of a decode step, as `measure_step` runs it."""
    from ..cost_model.binding import decode
    from ..cost_model.roofline import predict

    fitting = (r for r in compilation.regimes if r.rows == 0 or batch <= r.rows)
    regime = next(r for r in fitting if not r.sparse or r.attention_from <= CONTEXT)
    graph = next(r.before for r in regime.records if r.name == "lower-to-tiles")
    return predict(graph, decode(batch, CONTEXT), hardware,
                   launch="graph" if compilation.on_gpu else None)  # fmt: skip


def measure_step(compilation: Compilation, batch: int) -> dict[str, float]:
    """Return the seconds of each kind of graph operation in one decode step, as `weft kernels`
    has them of each kernel."""
    executor: Any = compilation.executor
    launches: list[BoundLaunch] = executor.launches(decode_input(executor, batch))
    groups: dict[str, list[int]] = defaultdict(list)
    for number, each in enumerate(launches):
        groups[_PRICED_AS.get(each.operation, each.operation)].append(number)
    means = executor.group_seconds(launches, groups.values())
    return {name: len(group) * mean
            for (name, group), mean in zip(groups.items(), means, strict=True)}  # fmt: skip


def check_size(what: str, size: int, most: int) -> None:
    """Raise BadOption where a step's size is not in 1..most."""
    from ..options import BadOption

    if not 1 <= size <= most:
        raise BadOption(problem=f"{what} are from 1 to {most}, not {size}")


def with_room(options: Options, batch: int, prompt: int = 0) -> Options:
    """Return options whose steps take so many sequences, and a prompt of so many tokens."""
    check_size("sequences of a step (--batch)", batch, MOST_SEQUENCES)
    return options.changed(
        max_batch=max(options.max_batch, batch), max_tokens=max(options.max_tokens, batch, prompt)
    )


def decode_input(executor: Any, batch: int, context: int = CONTEXT) -> Any:
    """Return a decode step: one new token for each of `batch` sequences of `context` tokens.

    Raises BadOption where the executor has no room for such a step.
    """
    import torch

    from ..runtime.execution.step import StepInput

    check_size("sequences of a step (--batch)", batch, executor.max_batch)
    check_size("tokens of a sequence (--context)", context, executor.context_length)
    pages = -(-context // executor.page_size)
    table = torch.arange(batch * pages, dtype=torch.int32).reshape(batch, pages)
    table %= executor.num_pages

    def ints(values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int32)

    last = (table[:, -1] * executor.page_size + (context - 1) % executor.page_size).contiguous()
    return StepInput(
        tokens=ints(range(batch)),
        positions=ints([context - 1] * batch),
        slots=ints(last),
        query_starts=ints(range(batch + 1)),
        kv_lengths=ints([context] * batch),
        page_table=table,
        logits_rows=ints(range(batch)),
    )
