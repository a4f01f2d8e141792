"""The commands and their options; each body is a call into a module loaded when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import model_commands
from .parameters import (
    Argument,
    Attention,
    Gpu,
    Host,
    Kv,
    KvHost,
    MaxLoss,
    Model,
    Name,
    Offload,
    OffloadPolicy,
    Program,
    Remote,
    Target,
    Threads,
    Version,
    Weights,
    locals_of,
)

app = typer.Typer(
    epilog="Start with: weft run examples/essay_judge.weft --arg essay=@examples/data/essay.txt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def weft(version: Version = False) -> None:
    """weft compiles programs that call a language model many times, and runs them.

    Write a program (examples/*.weft), run it on a model (weft models), and look
    at every stage between its text and the machine code: weft dump, weft explain.
    """


@app.command()
def run(
    file: Program,
    model: Model = "tiny-dense",
    arg: Argument = None,
    rows: Annotated[Path | None, typer.Option(help="JSON lines: one run a row")] = None,
    out: Annotated[Path | None, typer.Option(help="where rows' results go")] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="with --rows: others go on where one fails")
    ] = False,
    program: Name = None,
    target: Target = "cpu",
    weights: Weights = "",
    kv: Annotated[
        str, typer.Option(help="format of keys and values: f32, bf16 (default on a GPU) or fp8")
    ] = "",
    activations: Annotated[
        str, typer.Option(help="bf16: not rounded to fp8 where products of fp8 weights read them")
    ] = "",
    weight_copies: Annotated[
        bool, typer.Option(help="on a GPU: decode steps may have weights of their own, if they fit")
    ] = True,
    tp: Annotated[
        int, typer.Option(help="processes that share the model, started by torchrun")
    ] = 1,
    threads: Threads = 0,
    kv_memory: Kv = "",
    kv_host_memory: KvHost = "",
    attention: Attention = "",
    max_loss: MaxLoss = None,
    calibration: Annotated[
        Path | None, typer.Option(help="sparse attention's channels, if not the checkpoint's own")
    ] = None,
    gpu_memory: Gpu = "",
    host_memory: Host = "",
    offload: Offload = None,
    offload_policy: OffloadPolicy = None,
    tools: Annotated[Path | None, typer.Option(help="a Python file that holds tools")] = None,
    seed: Annotated[int, typer.Option(help="what random draws begin from")] = 0,
    trace: Annotated[
        Path | None, typer.Option(help="write a Chrome trace: ui.perfetto.dev opens it")
    ] = None,
    record_routing: Annotated[
        Path | None,
        typer.Option(help="with --gpu-memory: write which experts each token took, for weft tune"),
    ] = None,
    remote_concurrency: Annotated[
        int | None, typer.Option(help="remote model: calls under way at once (default: 8)")
    ] = None,
    remote: Remote = None,
    json: Annotated[
        bool, typer.Option("--json", help="print one JSON object, no decoration")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="only the result")] = False,
) -> None:
    """Run a program: streamed text, the typed result, and what it cost.

    A batch (--rows, --out) keeps a journal beside its output: run the same
    command again after an interruption, and only unfinished rows are computed.
    """
    from . import run as command

    command.run(command.RunOptions(**locals_of(locals())))


@app.command()
def check(
    files: Annotated[
        list[Path],
        typer.Argument(help=".weft files, or Python files of programs; - for text on stdin"),
    ],
    tools: Annotated[Path | None, typer.Option(help="a Python file that holds tools")] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say everything that is wrong with programs, without running them; exit 1 if anything is.

    Syntax, names, types, options, the tools' functions, the files that types name, and the
    constraints of gens. It needs no model and loads none.
    """
    from . import check as command

    command.check(files, tools, json)


@app.command()
def dump(
    file: Program,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            "-s",
            help="ast program plan rows prefixes graph tile source binary (default: program)",
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="as it is after this pass, whose stage is that of its IR")
    ] = None,
    diff: Annotated[bool, typer.Option(help="with --after: what the pass changed")] = False,
    model: Model = "tiny-dense",
    program: Name = None,
    kernel: Annotated[
        str | None, typer.Option(help="tile, source, binary: only kernels with this in the name")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            help="source: tvm, triton; binary: assembly llvm ptx ttir ttgir; "
            "prefixes: svg (needs matplotlib)"
        ),
    ] = "",
    weights: Weights = "",
    attention: Attention = "",
    max_loss: MaxLoss = None,
    gpu_memory: Gpu = "",
    host_memory: Host = "",
    offload: Offload = None,
    offload_policy: OffloadPolicy = None,
    spans: Annotated[bool, typer.Option(help="print each operation's place in the source")] = False,
    rows: Annotated[
        Path | None, typer.Option(help="prefixes: of the rows in this JSON lines file")
    ] = None,
) -> None:
    """Print a program at one stage of its way from text to machine code."""
    from . import inspect as command

    command.dump(command.DumpOptions(**locals_of(locals())))


@app.command()
def opt(
    file: Annotated[
        Path | None, typer.Argument(help="IR text of any dialect; - for standard input")
    ] = None,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="names separated by commas; empty: verify only")
    ] = "",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="for passes that need a tokenizer")
    ] = None,
    spans: Annotated[bool, typer.Option(help="print spans")] = False,
    list_passes: Annotated[bool, typer.Option("--list", help="list the passes and stop")] = False,
    validate: Annotated[bool, typer.Option(help="check that each pass keeps the meaning")] = False,
) -> None:
    """Run passes on IR text: parse, verify, rewrite, print."""
    from . import inspect as command

    command.opt(file, passes, model, spans, list_passes, validate)


@app.command()
def explain(
    file: Program,
    model: Model = "tiny-dense",
    program: Name = None,
    target: Target = "cpu",
    hardware: Annotated[
        str, typer.Option(help="whose prices: a shipped name, or a file (default: this machine's)")
    ] = "",
    weights: Weights = "",
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(help="sequences of the decode step that is priced")] = 1,
    measure: Annotated[bool, typer.Option(help="measure each kernel beside its prediction")] = True,
    kv_memory: Kv = "",
    kv_host_memory: KvHost = "",
    attention: Attention = "",
    max_loss: MaxLoss = None,
    remote: Remote = None,
    rows: Annotated[
        Path | None, typer.Option(help="show what the rows of this JSON lines file share")
    ] = None,
    gpu_memory: Gpu = "",
    host_memory: Host = "",
    offload: Offload = None,
    offload_policy: OffloadPolicy = None,
) -> None:
    """Say what each pass did, with source lines, what it left and why, and what a step costs."""
    from . import explain as command

    command.explain(command.ExplainOptions(**locals_of(locals())))


@app.command()
def kernels(
    model: Model = "tiny-dense",
    target: Target = "cpu",
    weights: Weights = "",
    kv: Annotated[str, typer.Option(help="format of keys and values: f32, bf16 or fp8")] = "",
    attention: Attention = "",
    max_loss: MaxLoss = None,
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(help="sequences of the decode step")] = 1,
    context: Annotated[int, typer.Option(help="tokens that each of them has")] = 256,
    prefill: Annotated[
        int, typer.Option(help="instead, a step that reads a prompt of so many tokens")
    ] = 0,
    measure: Annotated[bool, typer.Option(help="measure each kernel on this device")] = True,
    tune: Annotated[
        bool, typer.Option(help="search schedules first; choices are kept for this device")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print one line of JSON")] = False,
) -> None:
    """List a step's kernels: shape, schedule, predicted and measured time, percent of the roof."""
    from . import kernels as command

    command.kernels(command.KernelOptions(**locals_of(locals())))


@app.command()
def explore(
    file: Program,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the page")] = Path("report"),
    model: Model = "tiny-dense",
    program: Name = None,
    arg: Argument = None,
    rows: Annotated[
        Path | None, typer.Option(help="JSON lines: rows to run, and to join the prefixes of")
    ] = None,
    tools: Annotated[Path | None, typer.Option(help="a Python file that holds tools")] = None,
    weights: Weights = "f32",
    threads: Threads = 0,
    assembly: Annotated[
        str, typer.Option(help="machine code of: all kernels, none, or those with this in the name")
    ] = "all",
    ptx: Annotated[str, typer.Option(help="PTX (needs triton) of: all, none, or a part")] = "none",
) -> None:
    """Write one page (report/index.html) that shows every stage, linked line by line.

    It holds the program beside IR, plan, kernels and machine code, each pass's
    changes and reasons, the prefix tree, a run's timeline and memory (with --arg
    or --rows), and the roofline. It opens from disk, without a server or a network.
    """
    from . import explore as command

    command.explore(command.ExploreOptions(**locals_of(locals())))


for command in (model_commands.models, model_commands.calibrate,
                model_commands.calibrate_attention, model_commands.evaluate,
                model_commands.tune):  # fmt: skip
    app.command()(command)
