"""`weft run`: one run with streamed text, or a batch of rows with a journal."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..ir.diagnostics import RunError, reason
from ..ir.display.units import bytes_text, counted, seconds_text
from .live import LiveView, LoadingBar, as_json, compiling, print_value
from .offload import named_values, offload_options
from .output import check_file, write_file
from .render import emit, parse_size, remarks
from .routing import check_recording, recording
from .rows import RowsFailed, check_out, completed, read_rows, telling_the_line

if TYPE_CHECKING:
    from ..runtime.executable import Executable
    from ..runtime.results import Stats


class BadArgument(RunError):
    """An --arg that is not name=value, or whose file cannot be read."""

    template = "--arg {text}: {problem}"
    hint = "write name=value; name=@FILE reads a file, and lists are JSON: sides='[\"a\"]'"


class NoTraceThere(RunError):
    """A trace of a model that runs elsewhere."""

    template = "there is no trace of {model}: its steps are those of the server"
    hint = "run without --trace, or on a model of this machine"


@dataclass(frozen=True)
class RunOptions:
    """The options of `weft run`, as the command line has them."""

    file: Path
    model: str
    arg: list[str] | None
    rows: Path | None
    out: Path | None
    keep_going: bool
    program: str | None
    target: str
    weights: str
    kv: str
    activations: str
    weight_copies: bool
    tp: int
    threads: int
    kv_memory: str
    kv_host_memory: str
    attention: str
    max_loss: float | None
    calibration: Path | None
    gpu_memory: str
    host_memory: str
    offload: list[str] | None
    offload_policy: Path | None
    tools: Path | None
    seed: int
    trace: Path | None
    record_routing: Path | None
    remote_concurrency: int | None
    remote: list[str] | None
    json: bool
    quiet: bool


TERMINATED = 143
"""The exit status of what SIGTERM ended, as shells have it: 128 and the signal's number."""


def run(options: RunOptions) -> None:
    """Compile, run, print the result and what it cost; SIGTERM is heard as Ctrl-C is.

    Not by one of several ranks: it may wait in an exchange, where Python hears nothing.
    """
    from ..runtime.interrupts import Terminated, termination_heard

    if options.tp > 1:
        _run(options)
        return
    try:
        with termination_heard():
            _run(options)
    except Terminated:
        raise SystemExit(TERMINATED) from None


def _run(options: RunOptions) -> None:
    arguments = written_arguments(options.arg)
    check_out(options.rows, options.out, options.keep_going)
    check_file(options.trace, "--trace")
    check_recording(options.record_routing, options.gpu_memory)
    rows = None
    if options.rows is not None:
        rows, remark = completed(read_rows(options.rows), arguments)
        if remark and not options.quiet:
            remarks().print(remark, markup=False)
    gc.unfreeze()  # what an earlier run of this process left may go
    start = perf_counter()
    with telling_the_line(options.rows):
        executable = _compile(options, arguments, rows)
    if options.trace is not None and executable.engine.trace is None:
        raise NoTraceThere(model=options.model)
    compiled = perf_counter() - start
    gc.freeze()  # a model and its kernels are no garbage: looking through them takes 0.2 s a time
    with recording(executable, options.record_routing, options.model):
        if rows is None:
            _run_once(executable, arguments, options, compiled)
        else:
            with telling_the_line(options.rows):
                _run_rows(executable, rows, options, compiled)


def _compile(
    options: RunOptions, arguments: dict[str, Any], rows: list[dict[str, Any]] | None
) -> Executable:
    """Compile for what is to be run; what the program does not take is told before a model is
    loaded for it. Of rows the first is looked at: all are when they run."""
    from ..compiler import Compilation
    from ..frontend.open import tools_of
    from ..options import Options
    from ..runtime.remote.address import is_remote

    given: dict[str, Any] = {"weight_copies": options.weight_copies}
    if options.weights:
        given["weights"] = options.weights
    given |= {name: value for name in ("kv", "activations") if (value := getattr(options, name))}
    given |= key_options(options.kv_memory, options.kv_host_memory)
    batch = 1 if rows is None else len(rows)
    given |= attention_options(options.attention, options.max_loss, batch)
    given["calibration"] = options.calibration
    given |= offload_options(options, options.target, given)
    chosen = Options.from_env().changed(
        target=options.target,
        tp=options.tp,
        seed=options.seed,
        **given,
        trace=options.trace is not None,
        **remote_options(options.remote, options.remote_concurrency),
    )
    if options.threads:
        chosen = chosen.changed(threads=options.threads)
    hidden = options.quiet or options.json
    with compiling(hidden or is_remote(options.model), options.target), LoadingBar(hidden) as bar:
        tools = tools_of(options.tools) if options.tools else None
        compilation = Compilation(
            options.file, options.model, name=options.program, tools=tools, options=chosen
        )
        _ = compilation.checkpoint  # is there such a model?
        if rows is None:
            compilation.bind(arguments)
        elif rows and not options.keep_going:
            compilation.bind(rows[0], 0)
        compilation.progress = bar.show
        return compilation.executable()


def remote_options(texts: list[str] | None, concurrency: int | None = None) -> dict[str, Any]:
    """Return the options that `--remote NAME=VALUE`, perhaps several times, stand for, beside
    `--remote-concurrency`; raises BadOption."""
    from ..options import BadOption, RemoteOptions

    found = RemoteOptions.parse(named_values("--remote", texts))
    if concurrency is None:
        return found
    if "remote_concurrency" in found:
        problem = "--remote-concurrency stands beside --remote concurrency="
        raise BadOption(problem=problem, hint="leave one of them out")
    return {**found, "remote_concurrency": concurrency}


def attention_options(attention: str, max_loss: float | None, batch: int = 1) -> dict[str, Any]:
    """Return the options that `--attention` and `--max-loss` stand for, priced for so many
    sequences."""
    given = {"attention": attention, "max_loss": max_loss}
    found = {name: value for name, value in given.items() if value not in ("", None)}
    return found | {"attention_batch": max(1, batch)}


def key_options(memory: str, host_memory: str) -> dict[str, Any]:
    """Return the options that `--kv-memory` and `--kv-host-memory` stand for."""
    given = {"kv_memory": memory, "kv_host_memory": host_memory}
    return {name: parse_size(text) for name, text in given.items() if text}


def _run_once(
    executable: Executable, arguments: dict[str, Any], options: RunOptions, compiled: float
) -> None:
    from ..runtime.programs.events import Finished, TextPiece, ValueBound

    result = None
    with LiveView(options.quiet or options.json) as view:
        for event in executable.stream(**arguments):
            if isinstance(event, TextPiece):
                view.text(event.name, event.path, event.text)
            elif isinstance(event, ValueBound):
                view.value(event.name, event.path, event.value)
            elif isinstance(event, Finished):
                result = event.result
    assert result is not None
    if options.json:
        emit(as_json({"value": result.value, "values": result.values,
                      "stats": _numbers(result.stats, compiled),
                      **_fetched(executable)}))  # fmt: skip
    else:
        print_value(result.value)
    _finish(executable, result.stats, options, compiled)


def _run_rows(
    executable: Executable, rows: list[dict[str, Any]], options: RunOptions, compiled: float
) -> None:
    """Run every row, and show how far it is."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[speed]:.0f} tokens/s"), TimeElapsedColumn())  # fmt: skip
    hidden = options.quiet or options.json
    with Progress(*columns, console=remarks(), disable=hidden) as bar:
        task = bar.add_task(escape(options.file.stem), total=len(rows), speed=0.0)

        def show(progress: Any) -> None:
            speed = progress.generated_tokens / progress.seconds if progress.seconds else 0.0
            bar.update(task, completed=progress.done, speed=speed)

        try:
            results = executable.run_rows(
                rows, options.out, progress=show, keep_going=options.keep_going
            )
        except KeyboardInterrupt:
            if options.out is not None:
                bar.stop()
                remarks().print("interrupted: what is done is kept; the same command goes on there")
            raise
    if options.json:
        emit(as_json({"rows": len(rows), "resumed": results.resumed,
                      "failed": len(results.errors),
                      "stats": _numbers(results.stats, compiled),
                      **_fetched(executable)}))  # fmt: skip
    elif options.out is None:
        for value in results.values:
            emit(as_json(value))
    if results.resumed and not hidden:
        remarks().print(f"{results.resumed} rows were done before, and were not computed again")
    _finish(executable, results.stats, options, compiled)
    if results.errors:
        first = results.errors[min(results.errors)]
        hint = "the same command again runs these rows alone" if options.out is not None else ""
        raise RowsFailed(
            failed=len(results.errors), rows=counted(len(rows), "row"), first=first, hint=hint,
            row=min(results.errors),
        )  # fmt: skip


def written_arguments(texts: list[str] | None) -> dict[str, Any]:
    """Return what `--arg`, perhaps several times, gives; raises BadArgument."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, value = _argument(text)
        if name in found:
            raise BadArgument(text=text, problem=f"{name} is given twice")
        found[name] = value
    return found


def _argument(text: str) -> tuple[str, Any]:
    from ..runtime.programs.arguments import Written

    name, separator, value = text.partition("=")
    if not separator:
        raise BadArgument(text=text, problem="there is no =")
    if not name:
        raise BadArgument(text=text, problem="there is no name before the =")
    if not value.startswith("@"):
        return name, Written(value)
    try:
        held = Path(value[1:]).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(text=text, problem=reason(error)) from None
    return name, held if held.startswith('"') else Written(held)  # a quotation is no JSON there


def _numbers(stats: Stats, compiled: float) -> dict[str, Any]:
    return {
        "seconds": stats.seconds,
        "compile_seconds": compiled,
        "first_token_seconds": stats.first_token_seconds,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "tokens_per_second": stats.tokens_per_second,
        "prefix_hits_predicted": stats.hits_predicted,
        "prefix_hits_measured": stats.hits_measured,
        "peak_kv_pages": stats.peak_kv_pages,
        "peak_kv_bytes": stats.peak_kv_bytes,
    }


def _fetched(executable: Executable) -> dict[str, Any]:
    """Return what passed over the link, where keys lie in host memory."""
    host = getattr(getattr(executable.engine, "executor", None), "host", None)
    return {} if host is None else {"fetched": asdict(host.traffic())}


def _finish(executable: Executable, stats: Stats, options: RunOptions, compiled: float) -> None:
    """Print the closing summary; write the trace."""
    if options.trace is not None:
        from ..runtime.tracing.perfetto import chrome_trace

        assert executable.engine.trace is not None
        write_file(options.trace, "--trace", chrome_trace(executable.engine.trace))
    if options.quiet or options.json:
        return
    first = stats.first_token_seconds
    engine: Any = executable.engine
    costs = [
        ("prefix hits", f"{stats.hits_predicted} predicted, {stats.hits_measured} measured"),
        ("peak KV", f"{counted(stats.peak_kv_pages, 'page')}, {bytes_text(stats.peak_kv_bytes)}"),
    ]
    if hasattr(engine, "retries"):  # an endpoint: what memory it takes there is not known
        costs = [("calls", f"{engine.steps}, {engine.retries} of them made again")]
    described = getattr(getattr(engine, "executor", None), "describe", None)
    if described is not None:
        costs += described()
    rows = [
        ("tokens", f"{stats.prompt_tokens} prompt, {stats.generated_tokens} new"),
        ("compiled in", seconds_text(compiled)),
        ("first token", seconds_text(first) if first is not None else "none"),
        ("speed", f"{stats.tokens_per_second:.1f} tokens/s, {seconds_text(stats.seconds)} in all"),
        *costs,
    ]
    remarks().print("")
    for name, text in rows:
        remarks().print(f"[dim]{name:>12}[/]  {text}")
