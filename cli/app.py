"""The commands and their options; each body is a call into a module loaded when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .parameters import (
    Argument,
    Attention,
    Gpu,
    Kv,
    KvHost,
    MaxLoss,
    Model,
    Name,
    Offload,
    Program,
    Remote,
    Threads,
    Version,
    Weights,
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
    target: Annotated[str, typer.Option(help="cpu, or cuda: one NVIDIA GPU")] = "cpu",
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
    max_loss: MaxLoss = 0.0,
    gpu_memory: Gpu = "",
    host_memory: Annotated[
        str, typer.Option(help="with --gpu-memory: memory beside the CPU; the rest stays on disk")
    ] = "",
    offload: Offload = None,
    offload_policy: Annotated[
        Path | None, typer.Option(help="with --gpu-memory: a policy file, as weft tune writes it")
    ] = None,
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
        int, typer.Option(help="remote model: calls under way at once")
    ] = 8,
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
def dump(
    file: Program,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            "-s",
            help="ast program plan prefixes graph tile source binary (default: program)",
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
    weights: Weights = "f32",
    attention: Attention = "",
    max_loss: MaxLoss = 0.0,
    gpu_memory: Gpu = "",
    offload: Offload = None,
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
    target: Annotated[str, typer.Option(help="cpu, or cuda: priced for an H200")] = "cpu",
    weights: Weights = "",
    threads: Threads = 0,
    batch: Annotated[int, typer.Option(help="sequences of the decode step that is priced")] = 1,
    measure: Annotated[bool, typer.Option(help="measure each kernel beside its prediction")] = True,
    kv_memory: Kv = "",
    kv_host_memory: KvHost = "",
    attention: Attention = "",
    max_loss: MaxLoss = 0.0,
    remote: Remote = None,
    rows: Annotated[
        Path | None, typer.Option(help="show what the rows of this JSON lines file share")
    ] = None,
    gpu_memory: Gpu = "",
    offload: Offload = None,
) -> None:
    """Say what each pass did, with source lines, what it left and why, and what a step costs."""
    from . import explain as command

    command.explain(command.ExplainOptions(**locals_of(locals())))


@app.command()
def kernels(
    model: Model = "tiny-dense",
    target: Annotated[str, typer.Option(help="cpu, or cuda: one NVIDIA GPU")] = "cpu",
    weights: Weights = "",
    kv: Annotated[str, typer.Option(help="format of keys and values: f32, bf16 or fp8")] = "",
    attention: Attention = "",
    max_loss: MaxLoss = 0.0,
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


@app.command()
def models(
    model: Annotated[str | None, typer.Argument(help="show one model's card")] = None,
) -> None:
    """List the models that ship with weft, or show one."""
    from . import machine as command

    command.models(model)


@app.command()
def calibrate(
    out: Annotated[
        Path | None, typer.Option(help="where the hardware file goes (default: yours)")
    ] = None,
    threads: Threads = 0,
    disk: Annotated[bool, typer.Option(help="measure the disk that the file goes to")] = True,
    rounds: Annotated[
        int, typer.Option(help="runs of each probe; their spread is the error bar")
    ] = 9,
    json: Annotated[
        bool, typer.Option("--json", help="print the file's JSON, not a table")
    ] = False,
) -> None:
    """Measure this machine's ceilings: what the cost model divides by."""
    from . import machine as command

    command.calibrate(command.CalibrateOptions(**locals_of(locals())))


@app.command()
def calibrate_attention(
    model: Annotated[str, typer.Argument(help="a shipped model, or a checkpoint folder")],
    text: Annotated[Path, typer.Option(help="plain text that the model reads, 8 K tokens or more")],
    tokens: Annotated[int, typer.Option(help="how many of its tokens, from the start")] = 8192,
    out: Annotated[
        Path | None, typer.Option(help="default: attention_calibration.json with the checkpoint")
    ] = None,
    statistic: Annotated[
        str, typer.Option(help="what orders channels: centred; or q, k, qk as published")
    ] = "centred",
    target: Annotated[str, typer.Option(help="cpu, or cuda: one NVIDIA GPU")] = "cpu",
    threads: Threads = 0,
) -> None:
    """Choose the channels by which sparse attention tells keys apart, per key/value head."""
    from . import attention as command

    command.calibrate(command.CalibrateOptions(**locals_of(locals())))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="a shipped model, or a checkpoint folder")],
    attention: Annotated[
        str, typer.Option(help='what to compare: dense,"sparse(ratio=1/16)",...')
    ] = "dense,sparse(ratio=1/16)",
    only: Annotated[
        str, typer.Option(help="parts, with commas: perplexity, pairs, needles, tasks")
    ] = "",
    lengths: Annotated[str, typer.Option(help="tokens of retrieval contexts")] = "512,1k,2k,4k",
    contexts: Annotated[int, typer.Option(help="contexts a length, eight questions each")] = 4,
    text: Annotated[Path | None, typer.Option(help="held-out text (shipped models: ours)")] = None,
    tokens: Annotated[int, typer.Option(help="tokens of the text, at most")] = 8192,
    chunk: Annotated[int, typer.Option(help="tokens of one sequence of the text")] = 4096,
    beyond: Annotated[int, typer.Option(help="loss counts tokens after longer contexts")] = 1024,
    examples: Annotated[int, typer.Option(help="examples of each task")] = 12,
    calibration: Annotated[
        Path | None, typer.Option(help="a calibration file, if not the checkpoint's own")
    ] = None,
    statistic: Annotated[
        str, typer.Option(help="q, k or qk (default) of a calibration file as published")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(help="loss against bytes read, .svg or .png (needs matplotlib)"),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="keep losses beside the model, for --max-loss")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the questions")] = 2024,
    target: Annotated[str, typer.Option(help="cpu, or cuda: one NVIDIA GPU")] = "cpu",
    kernels: Annotated[
        bool, typer.Option("--kernels", help="by compiled decode, a token a step, not by meaning")
    ] = False,
    threads: Threads = 0,
    json: Annotated[bool, typer.Option("--json", help="end with one line of JSON")] = False,
) -> None:
    """Judge attention policies: held-out perplexity, retrieval by length, needles, tasks."""
    from . import attention as command

    command.evaluate(command.EvaluateOptions(**locals_of(locals())))


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="a shipped model, a folder, or random:SHAPE")],
    gpu_memory: Annotated[str, typer.Option(help="cap, such as 16GiB (default: all of it)")] = "",
    host_memory: Annotated[str, typer.Option(help="cap, such as 128GiB (default: all)")] = "",
    disk: Annotated[str, typer.Option(help="room for pages on disk, such as 500GiB")] = "",
    hardware: Annotated[
        str, typer.Option(help="a shipped name, or a file (default: this machine's, else h200)")
    ] = "",
    prompt: Annotated[int, typer.Option(help="tokens of a prompt, on the mean")] = 512,
    new: Annotated[int, typer.Option(help="tokens generated for each")] = 64,
    batch: Annotated[int, typer.Option(help="sequences that there are, at most (0: any)")] = 0,
    pages: Annotated[str, typer.Option(help="format: bf16 f16 f32 bf12 int8 int4")] = "bf16",
    kv: Annotated[
        str, typer.Option(help="keys and values: bf16 or f32 (default: f32 with pages of f32)")
    ] = "",
    pages_per_expert: Annotated[int, typer.Option(help="slices of an expert (0: chosen)")] = 1,
    popularity: Annotated[
        Path | None,
        typer.Option(help="a trace of run --record-routing; or JSON, a list of counts a layer"),
    ] = None,
    split_kv: Annotated[
        bool,
        typer.Option("--split-kv", help="keys in GPU memory too, where attention is on the GPU"),
    ] = False,
    overlap: Annotated[
        bool,
        typer.Option("--overlap", help="sequences come and go: decode and prompts in each step"),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="write the policy as text")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="throughput by host memory, .svg or .png (needs matplotlib)"),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(help="with --plot: a record of bench.moe_offload to draw beside")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Find how to run a mixture-of-experts model larger than the GPU, and what bounds it."""
    from . import tune as command

    command.tune(command.TuneOptions(**locals_of(locals())))


def locals_of(values: dict[str, object]) -> dict[str, Any]:
    """Return a command's parameters, without the names that its body imported."""
    return {key: value for key, value in values.items() if key != "command"}
