"""The commands about models and machines: their options; each body is a call into its module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .parameters import Target, Threads, locals_of


def models(
    model: Annotated[str | None, typer.Argument(help="show one model's card")] = None,
) -> None:
    """List the models that ship with weft, or show one."""
    from . import machine as command

    command.models(model)


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
    target: Target = "cpu",
    threads: Threads = 0,
) -> None:
    """Choose the channels by which sparse attention tells keys apart, per key/value head."""
    from . import attention as command

    command.calibrate(command.CalibrateOptions(**locals_of(locals())))


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
    target: Target = "cpu",
    kernels: Annotated[
        bool, typer.Option("--kernels", help="by compiled decode, a token a step, not by meaning")
    ] = False,
    threads: Threads = 0,
    json: Annotated[bool, typer.Option("--json", help="end with one line of JSON")] = False,
) -> None:
    """Judge attention policies: held-out perplexity, retrieval by length, needles, tasks."""
    from . import attention as command

    command.evaluate(command.EvaluateOptions(**locals_of(locals())))


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
