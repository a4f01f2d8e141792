"""Every path of offloading once, in seconds: what fails is printed, and the tokens are compared."""

from __future__ import annotations

import argparse
import traceback
from dataclasses import replace

from .ballast import Ballast
from .bench import say
from .runs import Measured, Setting, release, run
from .store import shared_store

GB = 10**9
FOUR, TWO = "random:mixtral-8x7b-4l", "random:mixtral-8x7b-2l"
"""Mixtral of four and two layers: 2.6 GiB of experts each."""


def settings(target: str, kv: str = "f32") -> list[Setting]:
    """Return the settings: all schedules, experts on the CPU, a drawn routing, keys on the GPU,
    slices of experts, pages on disk, narrow pages."""
    base = Setting(FOUR, 16, 24, 40, 8, 8 * GB, target, micro_batches=4, max_tokens=512,
                   steps=6, kv=kv)  # fmt: skip
    schedules = [replace(base, schedule=name) for name in ("ring", "cgo", "s2", "s3", "s4")]
    alone = replace(base, model=TWO, gpu_memory=5 * GB)
    return [
        *schedules,
        replace(base, cpu_experts=2),
        replace(base, cpu_experts=8),
        replace(base, micro_batches=1),
        replace(base, middle=True, prefill=False),
        replace(base, routing="zipf:1.0"),
        replace(base, schedule="s4", kv_gpu=0.5),
        alone,
        replace(alone, pages_per_expert=2),
        replace(alone, pages_per_expert=2, cpu_experts=2),
        replace(alone, host_memory=3 * GB),
        replace(alone, page_format="int8", gpu_memory=4 * GB),
        replace(alone, page_format="int4", gpu_memory=4 * GB),
    ]


def smoke(options: argparse.Namespace) -> int:
    """Run all settings, print a line each; return how many failed."""
    import torch

    target = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = settings(target, options.kv)
    if target == "cpu":
        small = {"model": "random:tiny-moe", "gpu_memory": 28 << 20, "weights": "f32"}
        chosen = [replace(s, **small, max_tokens=128, threads=options.threads) for s in chosen]
        chosen = [replace(s, host_memory=24 << 20) if s.host_memory else s for s in chosen]
    failed, store = 0, None
    firsts: dict[str, Measured] = {}
    with Ballast(max(s.gpu_memory for s in chosen)) as ballast:
        say(f"smoke of {len(chosen)} settings on {target}; {ballast.left >> 20} MiB left")
        for setting in chosen:
            shared = setting.model == FOUR
            store = store if shared else None
            try:
                if shared and store is None and target == "cuda":
                    store = shared_store(setting)
                    say("pages are there")
                found = run(setting, store)
            except Exception:
                failed += 1
                say(f"FAILED {_name(setting)}")
                traceback.print_exc()
                found = None
            if found is None:  # here its error is dropped, and with it what held its memory
                release()
                continue
            first = firsts.setdefault(setting.model, found)
            say(f"ok {_name(setting)}: {_told(found)}; {_alike(first, found)}")
    say(f"{failed} of {len(chosen)} failed")
    return failed


def _name(setting: Setting) -> str:
    return setting.name + (f", {setting.host_memory >> 20} MiB host" * bool(
        setting.host_memory))  # fmt: skip


def _told(found: Measured) -> str:
    steps = " ".join(f"{1e3 * step:.0f}" for step in found.steps)
    notes = "".join(f"; {note}" for note in found.notes)
    peak = found.gpu_peak >> 20
    return f"prefill {found.prefill:.2f} s, steps of {steps} ms, GPU {peak} MiB{notes}"


def _alike(first: Measured, found: Measured) -> str:
    if found.setting.middle or found.setting.routing:
        return "tokens of made up keys, or of another routing"
    pairs = [
        (a, b) for one, other in zip(first.tokens, found.tokens, strict=True)
        for a, b in zip(one, other, strict=False)
    ]  # fmt: skip
    same = sum(a == b for a, b in pairs)
    return f"{same} of {len(pairs)} tokens as the first setting's of the model"
