"""Every CPU figure of weft, in one command: kernels, decode beside peers, host time, start-up.

    python -m bench.cpu                       all of it (about half an hour)
    python -m bench.cpu --only startup        one section; see --help for their names
    python -m bench.cpu --json --record       last line one JSON object; kept in bench/results

Sections run one after another, each in processes of its own. `--work` is where the 1.1 B weights
and their GGUF files lie for the while (15 GB); they are deleted afterwards.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import peers
from .engines import checkpoint
from .peers import Outcome, table, work_folder
from .startup import ROOT, startup

RESULTS = Path(__file__).resolve().parent / "results" / "cpu.json"
VERSIONS = ("torch", "transformers", "llama-cpp-python", "apache-tvm", "apache-tvm-ffi", "numpy")

Figures = dict[str, Any]


def script(name: str, *arguments: str) -> Figures:
    """Run another benchmark of this folder; return the figures that it prints."""
    command = [sys.executable, str(ROOT / "bench" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"bench/{name}.py: {last[0]}")
    found = figures_of(done.stdout)
    for key, value in found.items():
        print(f"  {key:36s} {value:.3f}", flush=True)
    return found


def figures_of(output: str) -> Figures:
    """Return the figures of a script's output: one JSON object, or lines of `name: number`."""
    try:
        return json.loads(output)
    except json.JSONDecodeError:
        pairs = (line.split(":", 1) for line in output.splitlines() if ":" in line)
        return {key.strip(): float(value) for key, value in pairs}


def kernels(options: argparse.Namespace) -> Figures:
    """Matvec and attention kernels as fractions of the read bandwidth."""
    found = script("matvec", "--json", "--seconds", str(options.seconds))
    return {key.replace("matvec_i8_", "matvec_int8_"): value for key, value in found.items()}


def host(options: argparse.Namespace) -> Figures:
    """Microseconds of host work a decode step of 16 sequences."""
    return script("host_step")


def start(options: argparse.Namespace) -> Figures:
    """Waits of the command line, and predicted and measured prefix hits."""
    found = startup(options.rounds)
    for name, value in found.items():
        print(f"  {name:24s} {value:.3f}" if isinstance(value, float) else f"  {name:24s} {value}")
    return found


def peers_tiny(options: argparse.Namespace) -> Figures:
    """Decode of the shipped dense model: weft f32 beside transformers float32, llama.cpp F32."""
    found: Figures = {}
    with work_folder(options.work) as work:
        for batch in (1, 16):
            outcome = peers.tiny(work, batch, options.rounds, quick=options.quick)
            print(table(f"tiny-dense, batch {batch}", outcome), flush=True)
            tail = "" if batch == 1 else f"_batch{batch}"
            _keep(found, f"tiny_decode_vs_transformers{tail}", outcome, "weft f32", "transformers")
            _keep(found, f"tiny_decode_vs_llamacpp{tail}", outcome, "weft f32", "llama.cpp f32")
            found[f"tiny_peers{tail}"] = outcome.json()
    return found


def peers_1b(options: argparse.Namespace) -> Figures:
    """Decode of a 1.1 B Llama shape, beside llama.cpp and transformers, in each weight format."""
    found: Figures = {}
    with work_folder(options.work) as work:
        folder = checkpoint.make(work / "one-b")
        formats = (("f32", "f32"), ("bf16", "bf16"), ("q8_0", "int8"))
        for format, ours in formats[:2] if options.quick else formats:
            for batch in (1,) if options.quick else (1, 16):
                outcome = peers.one_b(
                    folder, work, batch, format, options.rounds, quick=options.quick
                )
                print(table(f"1.1 B {format}, batch {batch}", outcome), flush=True)
                tail = ("" if format == "f32" else f"_{ours}") + f"_batch{batch}" * (batch > 1)
                _keep(found, f"one_b_decode_vs_llamacpp{tail}", outcome, "weft", "llama.cpp")
                _keep(found, f"one_b_decode_vs_transformers{tail}", outcome, "weft", "transformers")
                found[f"one_b_peers{tail}"] = outcome.json()
            (work / f"one-b-{format}.gguf").unlink()
    return found


def _keep(found: Figures, key: str, outcome: Outcome, of: str, to: str) -> None:
    """Record how many times as fast the best setting of one engine is, with its quartiles."""
    measured = outcome.ratio(of, to)
    if measured is not None:
        found[key] = measured.median
        found[f"{key}_range"] = [measured.low, measured.high]


SECTIONS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "kernels": kernels,
    "host": host,
    "startup": start,
    "peers-tiny": peers_tiny,
    "peers-1b": peers_1b,
}


def provenance() -> Figures:
    """Return what the figures depend on: machine, versions, commit, date."""
    from weft.codegen.measure.cpu import cpu_name
    from weft.codegen.threads import available_cores

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "machine": {"cpu": cpu_name(), "cores": available_cores(), "system": platform.system()},
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in VERSIONS},
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def record(figures: Figures, sections: list[str], path: Path = RESULTS) -> None:
    """Merge figures into the results file; each section keeps when and where it was measured."""
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}, "sections": {}}
    known["figures"] |= {key: value for key, value in figures.items() if key != "failed"}
    known["sections"] |= dict.fromkeys(sections, provenance())
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Run the sections that are asked for."""
    options = _options()
    figures: Figures = {}
    done, failed = [], {}
    for name in options.only or SECTIONS:
        print(f"== {name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        try:
            figures |= SECTIONS[name](options)
            done.append(name)
        except (RuntimeError, OSError) as error:
            failed[name] = str(error)
            print(f"  failed: {error}", flush=True)
    if options.record and done:
        record(figures, done)
    if options.json:
        print(json.dumps(figures | ({"failed": failed} if failed else {})))
    sys.exit(1 if failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of each race")
    parser.add_argument("--quick", action="store_true", help="fewer peers, formats and batches")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the kernels' rounds")
    parser.add_argument("--work", type=Path, help="folder for big temporary files")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"merge into {RESULTS.name}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
