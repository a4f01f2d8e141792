"""The parameters that several commands share: their types, and what help says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weft {__version__}")
        raise typer.Exit()


def share(text: str) -> float:
    """Return the share that `1%` or `0.01` stands for."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise typer.BadParameter(f"a share is such as 1% or 0.01, not {text!r}") from None


Version = Annotated[
    bool,
    typer.Option("--version", is_eager=True, callback=_tell_version, help="show it and exit"),
]
Program = Annotated[Path, typer.Argument(help="a .weft file, or a Python file with @weft.program")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="a shipped model (weft models), a checkpoint folder, or openai:URL#NAME",
    ),
]
Name = Annotated[
    str | None, typer.Option("--program", "-p", help="which program of the file (default: last)")
]
Target = Annotated[str, typer.Option(help="cpu, or cuda: one NVIDIA GPU")]
Weights = Annotated[
    str, typer.Option(help="weight format: f32 (default), bf16 (default on a GPU), int8 or fp8")
]
Threads = Annotated[int, typer.Option(help="CPU threads (0: all cores)")]
Argument = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        "-a",
        help="name=value; value as JSON or text, @FILE reads a file; fields of --rows win over it",
    ),
]
Remote = Annotated[
    list[str] | None,
    typer.Option("--remote", help="NAME=VALUE for a remote model: docs/remote.md has the names"),
]
Kv = Annotated[
    str,
    typer.Option(help="memory for keys and values, such as 512MiB (default: 256MiB; a GPU's own)"),
]
KvHost = Annotated[
    str,
    typer.Option(
        help="keys and values lie in so much host memory; --kv-memory has labels and a cache of "
        "what sparse attention reads (docs/sparse_attention.md)"
    ),
]
Attention = Annotated[
    str,
    typer.Option(help="dense, or sparse(...): which keys decode reads (docs/sparse_attention.md)"),
]
MaxLoss = Annotated[
    float | None,
    typer.Option(
        parser=share,
        metavar="SHARE",
        help="the cheapest attention measured to lose at most this: 1% is one percent of "
        "perplexity, and one point of retrieval",
    ),  # fmt: skip
]
Gpu = Annotated[
    str,
    typer.Option(
        help="divide a model with experts between so much GPU memory, such as 16GiB, and the CPU; "
        "without --target cuda the GPU is simulated"
    ),
]
Host = Annotated[
    str, typer.Option(help="with --gpu-memory: memory beside the CPU; the rest stays on disk")
]
OffloadPolicy = Annotated[
    Path | None, typer.Option(help="with --gpu-memory: a policy file, as weft tune writes it")
]
Offload = Annotated[
    list[str] | None,
    typer.Option(
        "--offload",
        help="NAME=VALUE with --gpu-memory: schedule, micro_batches, cpu_experts, page_format, "
        "pages_per_expert, kv_gpu, prompt_tokens, routing",
    ),
]


def locals_of(values: dict[str, object]) -> dict[str, Any]:
    """Return a command's parameters, without the names that its body imported."""
    return {key: value for key, value in values.items() if key != "command"}
