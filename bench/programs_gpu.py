"""The programs on one GPU: weft beside the same engine driven request by request, an 8 B shape.

Random weights speak no language. So that what they draw is text of known tokens, as a trained
model's mostly is, the head's rows of whole words are made large, and those of all other tokens
small: free text is words that are one token each wherever they stand, and a client that gets text
tokenizes it as it was drawn. No end is drawn: a gen has all its tokens, or those that its
constraint leaves it.

`python -m bench.programs --target cuda` runs this; where several machines have each measured some
programs, `python -m bench.programs_gpu FILE...` merges their records into bench/results.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.ir.vocabulary import Tokenizer
from weft.options import Options
from weft.runtime.execution.weights import RandomTensors

from . import constrained
from .constraints import programs as constrained_programs
from .contest.cases import CASES, ROOT, SEED, Case
from .contest.contest import Bench, Contest, Way
from .contest.figures import agreement, counts, sound
from .gpu.workloads import Words
from .gpu_programs import record
from .measure import Summary, geometric_mean, interleave, ratio

SHAPE = "random:llama-8b"
HEAD = "lm_head.weight"
TIMES = 3
"""Rows here for each row on a CPU: 18 to 192 a program, and a fork's branches for each."""

CLIENTS = 256
"""Clients at once: SGLang's interpreter starts sixteen threads a core."""

LOUD, QUIET = 4.0, 0.05
"""What the head's rows of words, and of other tokens, are multiplied by. 2,191 words among 128,256
tokens: with 1 in place of 4, which greedy draws do not tell apart, a temperature of .8 drew a word
once in 28 tokens. With 4 two samples of a prompt draw the same word once in three times there."""

BATCH = 64
"""Sequences of the wider of the two batches in which constrained tokens are timed."""

ROUNDS = 12
"""Rounds of that: wide runs scatter by 1 %, and those of records by what is recorded in them."""

CONSTRAINED = "constrained"

RESULTS = ROOT / "bench" / "results" / "programs_gpu.json"

ABOUT = (
    f"8 B Llama shape, random weights, bf16; {TIMES} times the rows of bench/contest/cases.py, "
    "with the lengths there; keys and values of everything fit; each run cold, an engine of its own"
)

Figures = dict[str, Any]


@dataclass(frozen=True)
class Wordy(RandomTensors):
    """Random tensors whose head says words."""

    words: tuple[int, ...] = ()

    def read(self, name: str, shape: tuple[int, ...], shard: Any = None) -> Tensor:
        """Return an f32 tensor."""
        found = super().read(name, shape, shard)
        if name != HEAD:
            return found
        scale = torch.full((shape[0], 1), QUIET, device=found.device)
        scale[torch.tensor(self.words, device=found.device)] = LOUD
        return found.mul_(scale)


def word_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens that are whole words, the same wherever they stand."""
    return tuple(tokenizer.encode(word)[0] for word in Words(tokenizer).words)


@contextmanager
def wordy(words: tuple[int, ...]) -> Iterator[None]:
    """Let random models that are loaded meanwhile say only words in free text."""

    def source(checkpoint: Any, options: Options, device: str = "cpu") -> Wordy:
        return Wordy(options.seed, device, words)

    with patch("weft.compiler.loading.tensor_source", source):
        yield


def on_device(model: str = SHAPE, **changes: Any) -> Bench:
    """Return a bench whose model is loaded on the GPU."""
    options = Options.from_env().changed(**{"target": "cuda", "prove": False, **changes})
    bench = Bench(model, options)
    with wordy(word_ids(open_checkpoint(model).tokenizer)):
        bench.compile(CASES["multi_chain"])  # loads the model
    return bench


def rows_of(case: Case, times: int = TIMES) -> list[Any]:
    """Return a program's rows, always the same."""
    return case.make(Random(SEED), times * case.count)


def measure(contest: Contest, rounds: int) -> Figures:
    """Return a program's figures: counts of both sides, and seconds, cold, in turn.

    Every run has an engine of its own with nothing cached; memory holds everything. The runs that
    are counted come first, so that what is timed finds its kernels and recorded steps. Answers of
    both sides may differ, as a batch's shape changes the last digits of bf16: what both have
    generated is there to be compared.
    """
    way = Way(kv_tokens=0, clients=CLIENTS)
    noted = replace(way, noted=True)
    ours, theirs = sound(contest.weft(noted)), sound(contest.requests(noted))
    found = counts(ours, theirs) | agreement(ours.answers, theirs.answers)
    assert ours.log is not None and theirs.log is not None
    found["generated"] = {"weft": ours.log.generated, "requests": theirs.log.generated}
    found["steps"] = {"weft": ours.engine.steps, "requests": theirs.engine.steps}
    found["computed_tokens"] = {"weft": ours.engine.computed_tokens,
                                "requests": theirs.engine.computed_tokens}  # fmt: skip
    del ours, theirs
    first = {order: contest.requests(replace(way, longest_prefix=order)).seconds
             for order in (False, True)}  # fmt: skip
    best = replace(way, longest_prefix=first[True] < first[False])
    contest.weft(way)
    times = interleave({"weft": partial(seconds, contest.weft, way),
                        "requests": partial(seconds, contest.requests, best)}, rounds)  # fmt: skip
    speedup = ratio(times["requests"], times["weft"])
    return found | {
        "seconds": {name: Summary.of(values).json() for name, values in times.items()},
        "order_seconds": {"arrival": first[False], "longest_prefix": first[True]},
        "speedup": speedup.median,
        "speedup_range": [speedup.low, speedup.high],
    }


def seconds(run: Any, way: Way) -> float:
    """Return the seconds of a run whose every row is sound."""
    return sound(run(way)).seconds


def constrained_figures(bench: Bench, rounds: int) -> Figures:
    """Return how much faster constrained tokens come than free ones, alone and in a batch."""
    inner = constrained_programs.Bench(bench.model, bench.options)
    first = bench.compile(CASES["extract"])
    inner.take(first.executor, first.sampler, first.policy)
    found = constrained.speeds(bench.model, rounds, inner, sizes=(1, BATCH), times=1)
    return {
        "gpu_constrained_vs_free": found["constrained_vs_free"],
        "gpu_forced_speedup": found["forced_speedup"],
        "gpu_constrained": found,
    }


def run(options: argparse.Namespace) -> int:
    """Measure what is asked for, print it, record each part when it is done; return the status."""
    rounds = 2 if options.rounds is None else options.rounds
    began = perf_counter()
    bench = on_device()
    print(f"{SHAPE} loaded in {perf_counter() - began:.1f} s", flush=True)
    figures: Figures = {}
    failed: Figures = {}
    asked = options.only or CASES
    parts = {name: partial(_program, bench, name, rounds) for name in asked if name in CASES}
    if not options.only or CONSTRAINED in options.only:
        parts[CONSTRAINED] = partial(constrained_figures, bench, ROUNDS)
    for name, part in parts.items():
        gc.collect()
        try:
            found = part()
        except Exception as error:  # one program's failure must not lose the others' figures
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name:18s} failed: {failed[name]}", flush=True)
            continue
        figures |= found
        if options.record:
            record(found, [name], options.commit, RESULTS)
            _sum_up()
    programs = {name: figures[name] for name in CASES if name in figures}
    figures = (summary(programs) if programs else {}) | figures
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"  {key:32s} {value:.4f}")
    if options.json:
        print(json.dumps(figures | ({"failed": failed} if failed else {})))
    return 1 if failed else 0


def _program(bench: Bench, name: str, rounds: int) -> Figures:
    found = measure(Contest(bench, CASES[name], rows_of(CASES[name])), rounds)
    print(line(name, found), flush=True)
    return {name: found}


def merge(files: Sequence[Path], path: Path = RESULTS) -> None:
    """Bring records of other runs, of some programs each, into the record."""
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}, "sections": {}}
    for file in files:
        found = json.loads(file.read_text())
        for part in ("figures", "sections"):
            known[part] |= found[part]
    path.write_text(json.dumps(known, indent=1) + "\n")
    _sum_up(path)


def _sum_up(path: Path = RESULTS) -> None:
    """Bring the record's figures over all programs up to date: a run may be of some of them."""
    known = json.loads(path.read_text())
    programs = {name: known["figures"][name] for name in CASES if name in known["figures"]}
    known["figures"] |= (summary(programs) if programs else {}) | {"about": ABOUT}
    path.write_text(json.dumps(known, indent=1) + "\n")


def line(name: str, found: Figures) -> str:
    """Return one row of the table."""
    both = {key: found[key] for key in ("generated", "computed_tokens", "steps")}
    weft, clients = (found["seconds"][side]["median"] for side in ("weft", "requests"))
    low, high = found["speedup_range"]
    said = "  ".join(
        f"{key.split('_')[0]} {of['weft']}/{of['requests']}" for key, of in both.items()
    )
    return (
        f"{name:18s} {found['rows']:3d} rows {found['calls']:5d} calls  {said}  "
        f"hits {found['hit_rate']:6.1%} ({found['hit_rate_of_ideal']:.2%} of ideal; clients "
        f"{found['requests_hit_rate_of_ideal']:.2%})  {weft:.3f} s / {clients:.3f} s = "
        f"{found['speedup']:.2f} ({low:.2f} to {high:.2f})  {len(found['differing'])} rows differ"
    )  # fmt: skip


def summary(programs: Figures) -> Figures:
    """Return the figures over all programs."""
    staged = [found["speedup"] for name, found in programs.items() if CASES[name].staged]
    every = [found["speedup"] for found in programs.values()]
    return {
        "gpu_programs": len(programs),
        "gpu_speedup_geomean": geometric_mean(staged),
        "gpu_speedup_geomean_of_all": geometric_mean(every),
        "gpu_speedup_min": min(every),
        "gpu_hit_rate_of_ideal_min": min(each["hit_rate_of_ideal"] for each in programs.values()),
    }  # fmt: skip


if __name__ == "__main__":
    merge([Path(name) for name in sys.argv[1:]])
