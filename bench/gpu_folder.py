"""A checkpoint folder of a shape, as the hub has them, read by weft: seconds, GB/s, and its texts.

    python -m bench.gpu_folder --work /dev/shm/folder                       the 8 B Llama shape
    python -m bench.gpu_folder --model random:qwen3-30b-a3b --work FOLDER --json --record
    python -m bench.gpu_folder --model random:tiny-moe --work FOLDER --target cpu     tries it out

The folder is written first, where it is not there yet: random weights in bf16, in files of 2 GiB,
the same numbers as the shape has without a folder. Then the folder and the shape each run the same
program in a process of their own, and must give the same texts. What was just written is in memory:
seconds are those from there to the device, not of a disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from weft.bench.gpu.workloads import PLAIN, Words
from weft.bench.gpu_programs import record
from weft.compiler import Compilation
from weft.frontend.checkpoints.checkpoint import Checkpoint, open_checkpoint
from weft.ir.core import Module
from weft.ir.model import ModelConfig, Rope
from weft.options import Options
from weft.runtime.execution.weights import RandomTensors, reads_of

SHAPE = "random:llama-8b"
FILE_BYTES = 2 << 30
"""Bytes of a file of weights, at most, but for a larger tensor."""

WRITERS = 4
"""Threads that write, a file each, and hold it in memory before."""

ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight")
VOCABULARY = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NEW, ROWS, PROMPT = 32, 4, 256
"""Tokens that a row draws, rows, and the tokens of a row's prompt."""

LLAMA3 = {"factor": "factor", "low_frequency_factor": "low_freq_factor",
          "high_frequency_factor": "high_freq_factor",
          "original_context": "original_max_position_embeddings"}  # fmt: skip
Figures = dict[str, Any]


def hub_config(config: ModelConfig) -> dict[str, Any]:
    """Return a shape's config.json: what `read_config` makes the same shape of."""
    found: dict[str, Any] = {
        "architectures": [config.architecture], "vocab_size": config.vocab_size,
        "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim, "max_position_embeddings": config.context_length,
        "rope_theta": config.rope.theta, "rms_norm_eps": config.norm_eps, "hidden_act": "silu",
        "tie_word_embeddings": config.tied, "torch_dtype": "bfloat16",
        "intermediate_size": config.ffn,
    }  # fmt: skip
    if config.rope.kind != "default":
        found["rope_scaling"] = _scaling(config.rope)
    if config.experts:
        found |= {
            "num_experts": config.experts, "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.ffn, "norm_topk_prob": config.renormalize,
        }  # fmt: skip
    return found


def _scaling(rope: Rope) -> dict[str, Any]:
    if rope.kind != "llama3":
        raise ValueError(f"no shape has the rope type {rope.kind!r}")
    return {"rope_type": rope.kind} | {name: getattr(rope, own) for own, name in LLAMA3.items()}


def tensors_of(graph: Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor of a checkpoint that a model's graph reads."""
    seen: set[str] = set()
    for operation in graph.walk():
        if operation.name != "graph.weight":
            continue
        for _, (name, part, _) in reads_of(operation):
            if name not in seen:
                seen.add(name)
                yield name, part


def write(checkpoint: Checkpoint, folder: Path, device: str, most: int = FILE_BYTES) -> int:
    """Write a shape's random weights, configuration and tokenizer; return the weights' bytes.

    Raises OSError where they have no room.
    """
    sizes = dict(tensors_of(checkpoint.graph))
    total = sum(_bytes(name, shape) for name, shape in sizes.items())
    folder.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free, and the weights take "
                      f"{total / 1e9:.1f}: give another folder with --work")  # fmt: skip
    source, files = RandomTensors(device=device), list(_files(sizes, most))

    def save(number: int) -> dict[str, str]:
        file, names = f"model-{number + 1:05}-of-{len(files):05}.safetensors", files[number]
        held = {name: source.read(name, sizes[name]).to(_dtype(name)).cpu() for name in names}
        save_file(held, folder / file, {"format": "pt"})
        return dict.fromkeys(names, file)

    index: dict[str, str] = {}
    with ThreadPoolExecutor(WRITERS) as writers:
        for each in writers.map(save, range(len(files))):
            index |= each
    for name in VOCABULARY:
        if (checkpoint.vocabulary_folder / name).exists():
            shutil.copy(checkpoint.vocabulary_folder / name, folder / name)
    table = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    (folder / "config.json").write_text(json.dumps(hub_config(checkpoint.config), indent=1))
    return total


def _dtype(name: str) -> torch.dtype:
    """Return bf16; f32 for routers, which are read as that: rounded ones choose other experts."""
    return torch.float32 if name.endswith(ROUTERS) else torch.bfloat16


def _bytes(name: str, shape: tuple[int, ...]) -> int:
    return _dtype(name).itemsize * torch.Size(shape).numel()


def _files(sizes: dict[str, tuple[int, ...]], most: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in sizes.items():
        taken = _bytes(name, shape)
        if names and held + taken > most:
            yield names
            names, held = [], 0
        names.append(name)
        held += taken
    yield names


def load(model: str, target: str) -> Figures:
    """Load a model, with progress on standard error, and run a program: seconds and texts."""
    options = Options.from_env().changed(target=target, weights="bf16", prove=False)
    compilation = Compilation(PLAIN.format(new=NEW), model, options=options)
    shown = compilation.progress = _Shown()
    _ = compilation.kernels  # compiled before, so that seconds are those of the weights
    began = time.perf_counter()
    executable = compilation.executable()
    if target == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    assert compilation.checkpoint is not None
    words = Words(compilation.checkpoint.tokenizer)
    rows = [{"text": words.text(Random(seed), PROMPT), "more": ""} for seed in range(ROWS)]
    values = executable.run_rows(rows).values
    return {"seconds": seconds, "texts": values, "shown": shown.times}


class _Shown:
    """Hears of loading, and tells of each tenth."""

    def __init__(self) -> None:
        self.times, self.bytes = 0, 0

    def __call__(self, done: int, total: int) -> None:
        if 10 * done // total > 10 * self.bytes // total:
            print(f"  {done / 1e9:.1f} of {total / 1e9:.1f} GB", file=sys.stderr, flush=True)
        self.times, self.bytes = self.times + 1, done


def _alone(model: str, target: str) -> Figures:
    """Return what `load` found in a process of its own, which gives its memory back."""
    command = [sys.executable, "-m", "bench.gpu_folder", "--load", model, "--target", target]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def check_folder(config: ModelConfig, folder: Path) -> None:
    """End where a folder that is there already is of another shape."""
    found = json.loads((folder / "config.json").read_text())
    wanted = json.loads(json.dumps(hub_config(config)))
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if other:
        name = other[0]
        sys.exit(f"{folder} holds another shape: its {name} is {found.get(name)}, not "
                 f"{wanted[name]}; give another folder with --work")  # fmt: skip


def measure(model: str, folder: Path, target: str) -> Figures:
    """Write a shape's folder, load it, load the shape, and compare their texts."""
    checkpoint = open_checkpoint(model)
    if not (folder / "config.json").exists():  # it is written last
        began = time.perf_counter()
        total = write(checkpoint, folder, target)
        print(f"{folder}: {total / 1e9:.1f} GB written in {time.perf_counter() - began:.1f} s")
    check_folder(checkpoint.config, folder)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    of_folder, of_shape = _alone(str(folder), target), _alone(model, target)
    same = of_folder["texts"] == of_shape["texts"]
    print(f"{model} from a folder of {stored / 1e9:.1f} GB: {of_folder['seconds']:.1f} s, "
          f"{stored / of_folder['seconds'] / 1e9:.2f} GB/s, told of {of_folder['shown']} times; "
          f"made in memory: {of_shape['seconds']:.1f} s; texts "
          f"{'are the same' if same else 'DIFFER'}")  # fmt: skip
    name = model.removeprefix("random:")
    return {
        f"{name}_folder_bytes": stored, f"{name}_folder_load_s": of_folder["seconds"],
        f"{name}_folder_gb_per_s": stored / of_folder["seconds"] / 1e9,
        f"{name}_folder_same_texts": same,
    }  # fmt: skip


def main() -> int:
    """Measure, or load one model for the process that measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SHAPE, help="a shape, as random:NAME")
    parser.add_argument("--work", type=Path, help="where the folder is, or is written")
    parser.add_argument("--target", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--load", default="", metavar="MODEL", help="load this alone")
    parser.add_argument("--commit", default="", help="what is measured, where git is not at hand")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="merge into gpu_programs.json")
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load, options.target)))
        return 0
    if options.work is None or not options.model.startswith("random:"):
        parser.error("--work FOLDER is where the folder of a shape (--model random:NAME) goes")
    figures = measure(options.model, options.work, options.target)
    if options.record:
        record(figures, [f"{options.model.removeprefix('random:')}_folder"], options.commit)
    if options.json:
        print(json.dumps(figures))
    return 0 if all(value is not False for value in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
