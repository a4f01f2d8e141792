"""How long a person waits: `weft --help`, the first token warm, a cold compile; and prefix hits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .measure import Summary

ROOT = Path(__file__).resolve().parent.parent
RUN = [
    "run", "examples/essay_judge.weft", "--model", "tiny-dense",
    "--arg", "essay=@examples/data/essay.txt", "--json",
]  # fmt: skip


def weft(arguments: list[str], cache: Path) -> tuple[str, float]:
    """Run the command line with a kernel cache; return its output and the wall-clock seconds."""
    environment = os.environ | {"WEFT_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "weft", *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    spent = time.perf_counter() - start
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"weft {' '.join(arguments[:2])}: {last[0]}")
    return done.stdout, spent


def first_token(cache: Path) -> tuple[float, dict[str, Any]]:
    """Return seconds from the process's start to the first token, and the run's statistics.

    All but the tokens after the first one counts: imports, compilation, loading, and the exit.
    """
    output, wall = weft(RUN, cache)
    stats = json.loads(output.strip().splitlines()[-1])["stats"]
    return wall - stats["seconds"] + stats["first_token_seconds"], stats


def startup(rounds: int = 5) -> dict[str, Any]:
    """Return seconds of each wait (medians) and the prefix hits of the essay judge."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-cache-") as folder:
        cache = Path(folder)
        cold_s, cold = first_token(cache)
        warm = [first_token(cache) for _ in range(rounds)]
        helps = [weft(["--help"], cache)[1] for _ in range(rounds)]
    stats = warm[-1][1]
    return {
        "first_token_warm_s": Summary.of([seconds for seconds, _ in warm]).median,
        "first_token_cold_s": cold_s,
        "cold_compile_s": cold["compile_seconds"],
        "warm_compile_s": Summary.of([each["compile_seconds"] for _, each in warm]).median,
        "help_s": Summary.of(helps).median,
        "prefix_hits_predicted": stats["prefix_hits_predicted"],
        "prefix_hits_measured": stats["prefix_hits_measured"],
    }
