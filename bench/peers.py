"""Decode tokens/s of weft, transformers and llama.cpp on the same weights, in the same run.

Every engine sits in a process of its own and decodes greedily from the same prompt; rounds are
interleaved; prefill and warm-up are left out. Peers run in several sensible settings, and the best
of them counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engines import checkpoint
from .engines.gguf import export
from .engines.worker import EngineFailed, Worker
from .measure import Summary, interleave, ratio

ZOO = Path(__file__).resolve().parent.parent / "zoo"
PROMPT = [1, 50, 300, 700, 1200, 77, 80, 912, 401, 35, 2000, 640, 88, 1034, 5, 260]
CONTEXT = 256


@dataclass
class Outcome:
    """What one group of engines did: tokens/s by name, and what failed."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    quickest: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def best(self, engine: str) -> str | None:
        """Return the name of the fastest setting of an engine."""
        names = [name for name in self.rates if f"{name} ".startswith(f"{engine} ")]
        return max(names, key=lambda name: Summary.of(self.rates[name]).median, default=None)

    def ratio(self, of: str, to: str) -> Summary | None:
        """Return the best setting of one engine over the best of another, if both ran."""
        one, other = self.best(of), self.best(to)
        return ratio(self.rates[one], self.rates[other]) if one and other else None

    def json(self) -> dict[str, Any]:
        """Return medians and quartiles by engine, and failures."""
        rates = {name: Summary.of(values).json() for name, values in self.rates.items()}
        return {
            "tokens_per_s": rates, "tokens_per_s_quickest_step": self.quickest,
            "failed": self.failed,
        }  # fmt: skip


def race(specs: dict[str, dict[str, Any]], steps: int, rounds: int, idle: float = 5.0) -> Outcome:
    """Let engines decode `steps` tokens in `rounds` interleaved rounds."""
    outcome, workers = Outcome(), {}
    for name, spec in specs.items():
        try:
            workers[name] = Worker({"context": CONTEXT, "threads": 2} | spec, PROMPT)
        except EngineFailed as error:
            outcome.failed[name] = str(error)
    if workers:
        runs = {name: (lambda w=worker: w.decode(steps)) for name, worker in workers.items()}
        outcome.rates = interleave(runs, rounds, idle)
        outcome.quickest = {name: worker.best_rate for name, worker in workers.items()}
        outcome.tokens = {name: worker.tokens for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    return outcome


def weft_specs(
    path: Path, batch: int, formats: Sequence[str], threads: Sequence[int] = (2,)
) -> dict[str, dict[str, Any]]:
    """Return weft's settings: each weight format with each number of threads."""
    common = {"engine": "weft", "path": str(path), "batch": batch}
    return {
        f"weft {format} {count}t": common | {"format": format, "threads": count}
        for format in formats
        for count in threads
    }


def hf_specs(
    path: Path, batch: int, settings: Sequence[tuple[str, int]], dtype: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Return transformers in some (mode, threads)."""
    common = {"engine": "transformers", "path": str(path), "batch": batch, "format": dtype}
    return {
        f"transformers {mode} {dtype} {threads}t": common | {"mode": mode, "threads": threads}
        for mode, threads in settings
    }


def llama_specs(
    path: Path, batch: int, format: str, threads: Sequence[int] = (2,)
) -> dict[str, dict[str, Any]]:
    """Return llama.cpp on a GGUF file; keys and values in f16, its default."""
    spec = {"engine": "llama.cpp", "path": str(path), "batch": batch, "kv": "f16"}
    return {f"llama.cpp {format} {count}t": spec | {"threads": count} for count in threads}


def tiny(
    work: Path, batch: int, rounds: int, steps: int = 96, weft: bool = True, quick: bool = False
) -> Outcome:
    """Race every engine on the shipped tiny dense model, float32 (and llama.cpp's formats).

    `quick` leaves out narrow formats, and the settings of transformers that were never best.
    """
    folder = ZOO / "tiny-dense"
    settings = [
        ("eager", 1),
        ("eager", 2),
        ("compile", 2),
        ("compile-freeze", 1),
        ("compile-freeze", 2),
    ]
    settings = [("eager", 2), ("compile-freeze", 1)] if quick else settings
    formats = ["f32"] if quick else ["f32", "bf16", "int8"]
    specs = weft_specs(folder, batch, formats, (1, 2)) if weft else {}
    specs |= hf_specs(folder, batch, settings)
    for format in ("f32",) if quick else ("f32", "bf16", "q8_0"):
        file = export(folder, work / f"tiny-{format}.gguf", format)
        specs |= llama_specs(file, batch, format, (1, 2))
    return race(specs, steps, rounds)


def one_b(
    folder: Path, work: Path, batch: int, format: str, rounds: int, steps: int = 12,
    weft: bool = True, quick: bool = False,
) -> Outcome:  # fmt: skip
    """Race weft and llama.cpp on the 1.1 B shape in a format, and transformers unless `quick`."""
    ours = {"q8_0": "int8"}.get(format, format)
    file = work / f"one-b-{format}.gguf"
    if not file.exists():
        export(folder, file, format)
    specs = weft_specs(folder, batch, [ours]) if weft else {}
    outcome = race(specs | llama_specs(file, batch, format), steps, rounds)
    if format in {"f32", "bf16"} and not quick:
        dtype = {"f32": "float32", "bf16": "bfloat16"}[format]
        settings = [("eager", 2), ("compile-freeze", 2)]
        for name, spec in hf_specs(folder, batch, settings, dtype).items():  # one at a time: memory
            alone = race({name: spec}, steps, max(2, rounds // 2))
            outcome.rates |= alone.rates
            outcome.quickest |= alone.quickest
            outcome.failed |= alone.failed
    return outcome


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """Yield a folder for big files, below `given` or the system's; it is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="weft-bench-", dir=given))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(folder, ignore_errors=True)


def table(title: str, outcome: Outcome) -> str:
    """Return a text table of tokens/s, fastest first."""
    lines = [title]
    for name, values in sorted(outcome.rates.items(), key=lambda item: -Summary.of(item[1]).median):
        s = Summary.of(values)
        lines.append(
            f"  {name:34s} {s.median:9.1f} tokens/s  ({s.low:.1f} - {s.high:.1f}; "
            f"quickest step {outcome.quickest[name]:.1f})"
        )
    lines += [f"  {name:34s} did not run: {why}" for name, why in outcome.failed.items()]
    return "\n".join(lines)


def main() -> None:
    """Print the races that are asked for, and JSON as the last line with --json."""
    parser = argparse.ArgumentParser(description="decode tokens/s beside peers")
    parser.add_argument("--model", choices=("tiny", "1b"), default="tiny")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--format", nargs="+", default=["f32", "bf16", "q8_0"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--work", type=Path, help="where the 1.1 B weights go for the while (10 GB)"
    )
    parser.add_argument("--no-weft", action="store_true", help="peers only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with work_folder(options.work) as work:
        for title, outcome in races(options, work):
            print(table(title, outcome), flush=True)
            found[title] = outcome.json()
    if options.json:
        print(json.dumps(found))


def races(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, Outcome]]:
    """Yield each race's title and outcome."""
    if options.model == "tiny":
        for batch in options.batch:
            yield (
                f"tiny-dense batch {batch}",
                tiny(work, batch, options.rounds, weft=not options.no_weft),
            )
        return
    folder = checkpoint.make(work / "one-b")
    for format in options.format:
        for batch in options.batch:
            outcome = one_b(folder, work, batch, format, options.rounds, weft=not options.no_weft)
            yield f"1.1 B {format} batch {batch}", outcome
        (work / f"one-b-{format}.gguf").unlink()


if __name__ == "__main__":
    main()
