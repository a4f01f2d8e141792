"""Sparse decode attention on a GPU, beside the best dense kernel in the same run.

    python -m bench.sparse_speed [--only operation shared_prefix policies published end_to_end
        offload host_model host_batch calibration] [--json] [--record]
    python -m bench.sparse_speed --tiny        small shapes in Triton's interpreter: no timing

`operation` is one layer of an 8 B shape (32/8 heads of 128): labels of 1/16 of a key (32 channels
of 4 bits), a selection per key head, 1/16 of the tokens. Dense is the work list's kernel in the
tiles that its cost model picks, held against a copy in the same run (`dense_of_copy`). `published`
has 32/32 heads and torch's SDPA beside it. `end_to_end` is a decode step of the whole 8 B shape.
Every time is the median of replays of a CUDA graph; sets of pages rotate, so none is cached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "sparse_attention.json"
Figures = dict[str, Any]
CONTEXTS, BATCHES = (16384, 65536, 131072, 262144), (1, 8, 32)
PUBLISHED = ((2048, 8), (4096, 8), (8192, 8), (16384, 1), (16384, 8), (16384, 32))
MODEL = "llama-8b"
"""The shape of the end-to-end section, with random weights."""
LABELS = {"labels": "i4", "channels": 32}
MOST = 40 << 30
"""Bytes of keys and values that a setting may take."""


def operation(folder: Path, tiny: bool) -> Figures:
    """One layer's attention, dense and sparse, over contexts and batches."""
    from weft.bench.sparse.steps import Setting, dense_seconds, sparse_seconds

    figures: Figures = {}
    grid = [(64, 2)] if tiny else [(n, b) for n in CONTEXTS for b in BATCHES]
    for context, batch in grid:
        for name, policy in (("", {"ratio": 1 / 16}), ("_k2048", {"k": 2048})):
            if name and context != 131072:
                continue
            amount = {"k": 16} if tiny else policy
            setting = Setting.of(context, batch, amount | ({} if tiny else LABELS), tiny)
            if setting.bytes > MOST:
                continue
            sparse = sparse_seconds(setting, folder)
            dense = dense_seconds(setting, folder)
            key = f"{context // 1024}k_batch{batch}" if not tiny else "tiny"
            found = sparse | dense | {"bound": setting.bound, "predicted_us": predicted(setting)}
            if sparse["us"] and dense["dense_us"]:
                found["speedup"] = dense["dense_us"] / sparse["us"]
                found["of_bound"] = found["speedup"] / setting.bound
            figures[f"operation_{key}{name}"] = found
            print(f"  {key}{name}: {found}", flush=True)
    if tiny:
        return figures

    def speedup(key: str) -> float | None:
        return figures.get(f"operation_{key}", {}).get("speedup")

    headline = {
        "speedup_128k_batch8": speedup("128k_batch8"),
        "speedup_128k_batch1": speedup("128k_batch1"),
        "speedup_k2048_128k": speedup("128k_batch8_k2048"),
    }
    return figures | {key: value for key, value in headline.items() if value}


def predicted(setting: Any) -> float:
    """Return the us that the cost model says of a setting, whose scores decide on its cap."""
    from weft.cost_model.hardware_file import load
    from weft.cost_model.sparse_attention import sparse_seconds
    from weft.cost_model.sparse_bytes import AttentionShape

    s, policy = setting.shape, setting.policy
    shape = AttentionShape(s.heads, s.kv_heads, s.head_dim, s.kv)
    share = policy.cap if policy.adaptive else 0.0
    level = load("h200").level()
    return 1e6 * sparse_seconds(shape, level, policy, setting.context, setting.batch, share)


POLICIES: dict[str, Figures] = {
    "ratio": {"ratio": 1 / 16}, "threshold": {"threshold": 0.02, "cap": 1 / 8},
    "top_p": {"top_p": 0.8, "cap": 1 / 8}, "tail": {"ratio": 1 / 16, "tail": "mean"},
    "top_p_tail": {"top_p": 0.8, "cap": 1 / 8, "tail": "mean"},
}  # fmt: skip


def _sets() -> dict[str, list[tuple[Figures, tuple[int, int]]]]:
    """Return the amounts and heads of each section whose kernels are compiled ahead."""
    ratio, own, published = {"ratio": 1 / 16}, (32, 8), (32, 32)
    return {
        "operation": [(ratio, own)], "shared_prefix": [(ratio, own)],
        "policies": [(amounts, own) for amounts in POLICIES.values()],
        "published": [(ratio, published)],
    }  # fmt: skip


def compile_sections(sections: list[str], folder: Path) -> None:
    """Compile the sparse kernels of some sections in several processes."""
    from weft.bench.gpu.compile_ahead import compile_ahead
    from weft.bench.sparse.steps import Setting

    wanted = [pair for section in sections for pair in _sets().get(section, [])]
    settings = [Setting.of(131072, 8, amounts | LABELS, False, heads) for amounts, heads in wanted]
    compile_ahead([pair for setting in settings for pair in setting.kernels], folder / "triton")


def policies(folder: Path, tiny: bool) -> Figures:
    """Policies of other kinds at 128 K and batch 8, beside a ratio: a threshold, top-p, tails."""
    from weft.bench.sparse.steps import Setting, sparse_seconds

    figures: Figures = {}
    context, batch = (64, 2) if tiny else (131072, 8)
    for name, amounts in POLICIES.items():
        wider = {key: 1 / 4 for key in ("ratio", "cap") if key in amounts}  # for 64 tokens
        setting = Setting.of(context, batch, amounts | (wider if tiny else LABELS), tiny)
        found = sparse_seconds(setting, folder) | {"predicted_us": predicted(setting)}
        figures[f"policy_{name}{'_tiny' * tiny}"] = found
        print(f"  {name}: {found}", flush=True)
    return figures


def shared_prefix(folder: Path, tiny: bool) -> Figures:
    """Rows of a fork, that have all but 1 K of their context in common: labels of the prefix scored
    once for four rows, against row by row."""
    from weft.bench.sparse.steps import Setting, sparse_seconds

    figures: Figures = {}
    for context, batch in [(64, 3)] if tiny else [(32768, 8), (131072, 4), (131072, 8)]:
        setting = Setting.of(
            context, batch, {"k": 16} if tiny else {"ratio": 1 / 16, **LABELS}, tiny
        )
        setting = replace(setting, shared=context - (16 if tiny else 1024))
        key = "tiny" if tiny else f"{context // 1024}k_batch{batch}"
        each = {name: sparse_seconds(replace(setting, grouped=grouped), folder)
                for name, grouped in (("grouped", True), ("apart", False))}  # fmt: skip
        found: Figures = dict(each)
        if not tiny:
            found["speedup"] = each["apart"]["us"] / each["grouped"]["us"]
        figures[f"shared_prefix_{key}"] = found
        print(f"  shared prefix, {key}: {found}", flush=True)
    return figures


def published(folder: Path, tiny: bool) -> Figures:
    """The published comparison: 32/32 heads, up to 16 K, against torch SDPA; the largest ratio."""
    from weft.bench.sparse.steps import Setting, sdpa_seconds, sparse_seconds

    if tiny:
        return {}
    figures: Figures = {}
    for context, batch in PUBLISHED:
        setting = Setting.of(context, batch, {"ratio": 1 / 16, **LABELS}, False, heads=(32, 32))
        sparse, peer = sparse_seconds(setting, folder), sdpa_seconds(setting)
        found = sparse | {"sdpa_us": peer * 1e6, "speedup": peer * 1e6 / sparse["us"]}
        figures[f"published_{context // 1024}k_batch{batch}"] = found
        print(f"  {context}x{batch} against SDPA: {found}", flush=True)
    best = max(figures.values(), key=lambda found: found["speedup"])
    return figures | {"published_setting_speedup": best["speedup"]}


def end_to_end(folder: Path, tiny: bool) -> Figures:
    """A decode step of the whole model at 64 K, dense and sparse at equal batch."""
    from weft.bench.sparse.model_steps import step_seconds

    if tiny:
        found = step_seconds("tiny", 64, 2, folder)
        print(f"  end to end: {found}", flush=True)
        return {"end_to_end_tiny": found}
    batch = 8 if _memory() > 120 << 30 else 4  # keys and values of 8 take 68 GB
    found = step_seconds(MODEL, 65536, batch, folder) | {"batch": batch}
    print(f"  end to end: {found}", flush=True)
    return {"end_to_end_64k": found, "end_to_end_64k_speedup": found["dense_us"] / found["us"]}


def _memory() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory


def offload(folder: Path, tiny: bool) -> Figures:
    """Keys in host memory at 256 K, against streaming all of them."""
    from weft.bench.sparse.offload import offload as measured

    found = measured(folder, tiny)
    print(f"  offload: {found}", flush=True)
    return found


def host_model(folder: Path, tiny: bool) -> Figures:
    """A model's steps with keys in host memory, by the executor that runs programs."""
    from weft.bench.sparse.host_model import host_model as measured

    return measured(folder, tiny)


def host_batch(folder: Path, tiny: bool) -> Figures:
    """More sequences than a bound of GPU memory holds, with their keys in host memory."""
    from weft.bench.sparse.host_batch import host_batch as measured

    found = measured(folder, tiny)
    print(f"  host batch: {found}", flush=True)
    return found


def calibration(folder: Path, tiny: bool) -> Figures:
    """The calibration of the whole 8 B shape, with random weights."""
    from weft.bench.sparse.calibration import calibration as measured

    if tiny:
        return {"calibration_random_tiny": measured("tiny-dense", tokens=128)}
    found = measured(f"random:{MODEL}", "cuda")
    print(f"  calibration: {found}", flush=True)
    return {"calibration_8b": found, "calibration_8b_s": found["seconds"]}


SECTIONS = {
    "operation": operation, "shared_prefix": shared_prefix, "policies": policies,
    "published": published, "end_to_end": end_to_end, "offload": offload, "host_model": host_model,
    "host_batch": host_batch, "calibration": calibration,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> Figures:
    """Run the sections that are asked for; return their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--tiny", action="store_true", help="small shapes, interpreted on a CPU")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"merge into {RESULTS.name}")
    options = parser.parse_args(arguments)
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not options.tiny and not torch.cuda.is_available():
        sys.exit("there is no GPU here: `--tiny` runs the same kernels interpreted, without timing")
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        if not options.tiny:
            compile_sections(options.only, Path(folder))
        for section in options.only:
            print(section, flush=True)
            found = SECTIONS[section](Path(folder), options.tiny)
            for name, value in found.items():
                if isinstance(value, float):
                    print(f"  {name}: {value:.4g}", flush=True)
            figures |= found
            if options.record and not options.tiny:
                from weft.bench.gpu_kernels import record

                record(figures, [f"speed {section}"], RESULTS)
    if options.json:
        print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
