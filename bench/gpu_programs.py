"""Whole workloads, and single steps, of an 8 B Llama shape on one GPU: one command, one record.

    python -m bench.gpu_programs                      all sections, printed
    python -m bench.gpu_programs --json --record      last line JSON; kept in bench/results
    python -m bench.gpu_programs --only w1 w4         some sections
    python -m bench.gpu_programs --weights fp8 --kv fp8 --only decode_b1 decode_b64
    python -m bench.gpu_programs --weights fp8 --kv fp8 --activations bf16 --only decode_b64 prefill
    python -m bench.gpu_programs --model random:qwen3-30b-a3b --only decode_b1 decode_b64 w4
    python -m bench.gpu_programs --only long wide     one sequence of 128 K, a batch of 256
    torchrun --nproc-per-node 2 -m bench.gpu_programs --tp 2 --only decode_b1 decode_b64 w1

Figures of another model, format or number of ranks have its name before theirs.
Weights are random, in bf16, made on the device. Every workload begins cold: an engine of its own,
nothing cached, texts never seen; it is timed from the call to the last value, tokenizing included.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from weft.bench.gpu.workloads import RECORDED, WORKLOADS, Words, Workload, median, read_bytes
from weft.compiler import Compilation
from weft.compiler.formats import kv_dtype
from weft.compiler.loading import serve
from weft.options import Options
from weft.runtime.engine import Engine
from weft.runtime.executable import Executable
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.tracing.trace import Trace

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "gpu_programs.json"
SHAPE = "random:llama-8b"
COPY = {"NVIDIA H200": 4.24e12}
"""Bytes/s of a large copy, read plus written, as measured before on some devices."""
Figures = dict[str, Any]


class Bench:
    """The model on the device, and the ceilings of the device."""

    def __init__(self, model: str, rounds: int, changes: Figures) -> None:
        self.rounds = rounds
        self.model, self.changes = model, changes
        first = self._alone(WORKLOADS["w4"])
        self.ceilings = ceilings()  # before pages of keys take what memory is left
        started = time.perf_counter()
        self.executor, self.sampler = first.executor, first.sampler
        if first.launch.rank:
            serve(self.executor)
        torch.cuda.synchronize()
        self.load_seconds = time.perf_counter() - started
        assert first.checkpoint is not None
        self.config, self.tokenizer = first.checkpoint.config, first.checkpoint.tokenizer
        self.words = Words(self.tokenizer)
        self.ranks = first.options.tp
        self.element = 1.0 if first.options.weights in ("fp8", "int8") else 2.0
        key = 2 if kv_dtype(first.options) == "f8e4m3" else 4
        self.key_bytes = key * self.config.layers * self.config.kv_heads * self.config.head_dim

    def compilation(self, workload: Workload) -> Compilation:
        """Return a workload's program, compiled for the model that is in memory."""
        compilation = self._alone(workload)
        compilation.__dict__["executor"] = self.executor  # there is no room for another
        return compilation

    def _alone(self, workload: Workload) -> Compilation:
        options = Options.from_env().changed(target="cuda", prove=False, **self.changes)
        return Compilation(workload.program, self.model, options=options)

    def executable(self, compilation: Compilation, trace: Trace | None = None) -> Executable:
        """Return a program on an engine of its own, with nothing cached."""
        return Executable(
            compilation.plan, compilation.program_name, self.executor, self.tokenizer,
            sample=self.sampler, model=self.model, policy=compilation.policy, trace=trace,
        )  # fmt: skip

    def run(self, workload: Workload) -> Figures:
        """Return seconds of the rounds of a workload, cold, after one to warm up."""
        compilation, seconds, stats = self.compilation(workload), [], None
        for round in range(self.rounds + 1):
            rows = workload.rows(self.words, round)
            executable = self.executable(compilation)
            gc.collect()
            started = time.perf_counter()
            stats = executable.run_rows(rows).stats
            seconds.append(time.perf_counter() - started)
            assert stats.generated_tokens == workload.generated, stats
        taken, floor = median(seconds[1:]), self.floor(workload)
        name = workload.name
        say(f"{name}: {taken:.3f} s ({workload.generated / taken:.0f} tokens/s), "
            f"floor {floor:.3f} s, fraction {floor / taken:.3f}; rounds "
            f"{', '.join(f'{s:.3f}' for s in seconds)}; {stats}")  # fmt: skip
        return {
            f"{name}_seconds": taken, f"{name}_rounds": seconds[1:],
            f"{name}_tokens_per_s": workload.generated / taken,
            f"{name}_fraction_of_floor": floor / taken,
            **versus_transformers(name, taken),
        }  # fmt: skip

    def floor(self, workload: Workload) -> float:
        """Return a workload's floor at 790 TFLOP/s and 4.3 TB/s, as in the shared comparison."""
        return workload.floor(self.config, 790e12, 4.3e12)

    def decode(self, batch: int, context: int, steps: int = 64) -> Figures:
        """Return seconds of a decode step by the engine, its roofline, and the device's part."""
        times, device = self.decode_times(batch, context - 3 * steps // 4, steps)
        step = median(times)
        read = read_bytes(self.config, batch, self.element) + batch * context * self.key_bytes
        floor = read / self.ranks / self.ceilings["copy"]
        say(f"decode batch {batch}, context {context}: {1e3 * step:.3f} ms a step, device "
            f"{1e3 * device:.3f} ms, roofline {1e3 * floor:.3f} ms, fraction {floor / step:.3f}, "
            f"host exposed {max(0.0, 1 - device / step):.4f}")  # fmt: skip
        return {
            f"decode_b{batch}_ms": 1e3 * step, f"decode_b{batch}_device_ms": 1e3 * device,
            f"decode_b{batch}_fraction_of_roofline": floor / step,
            f"decode_b{batch}_host_exposed_fraction": max(0.0, 1 - device / step),
        }  # fmt: skip

    def decode_times(self, batch: int, prompt: int, steps: int) -> tuple[list[float], float]:
        """Return the seconds between the ends of an engine's steps in steady decode, and those
        that the device takes for one of them, run again half way."""
        engine = Engine(self.executor, self.sampler)
        requests = [self.request(engine, row, prompt, 2 * steps) for row in range(batch)]
        for request in requests:
            engine.submit(request)
        while not all(request.first_token_time for request in requests):
            engine.step()
        self._step_times(engine, steps // 4)
        times = self._step_times(engine, steps)
        return times, self.executor.time_last()  # type: ignore[attr-defined]

    def _step_times(self, engine: Engine, steps: int) -> list[float]:
        ends = [time.perf_counter()]
        for _ in range(steps):
            engine.step()
            ends.append(time.perf_counter())
        return [after - before for before, after in pairwise(ends)]

    def request(self, engine: Engine, row: int, prompt: int, new: int) -> Request:
        """Return a request of random tokens."""
        sequence = engine.create((row,))
        sequence.append(torch.randint(10, 4000, (prompt,)).tolist())
        return Request(sequence, f"row {row}", Sampling(max_tokens=new))

    def prefill(self, tokens: int = 8192) -> Figures:
        """Return the rate of a long prompt's prefill, end to end, over that of a product."""
        seconds = []
        for row in range(self.rounds + 1):
            engine = Engine(self.executor, self.sampler)
            engine.submit(self.request(engine, row, tokens, 1))
            started = time.perf_counter()
            while engine:
                engine.step()
            seconds.append(time.perf_counter() - started)
        taken = median(seconds[1:])
        head = self.config.vocab_size * self.config.width
        dense = read_bytes(self.config, 1, 1.0) - head  # of experts those of a single token
        attention = 2 * self.config.layers * self.config.heads * self.config.head_dim * tokens**2
        rate = (2 * dense * tokens + attention) / taken
        fraction = rate / self.ranks / self.ceilings["matmul"]
        say(f"prefill {tokens}: {1e3 * taken:.1f} ms, {rate / 1e12:.0f} TFLOP/s, "
            f"fraction of matmul {fraction:.3f}")  # fmt: skip
        return {"prefill_fraction_of_matmul": fraction, "prefill_8k_ms": 1e3 * taken}


def versus_transformers(name: str, taken: float) -> Figures:
    """Return a workload's ratio to transformers, measured here by bench/gpu_peers or recorded."""
    known = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else {}
    measured = known.get(f"transformers_{name}_seconds")
    how = "measured on the same kind of machine" if measured else "as recorded before"
    return {
        f"{name}_vs_transformers": (measured or RECORDED[name]) / taken,
        f"{name}_vs_transformers_is": f"transformers' seconds, {how}, over ours",
    }


def ceilings() -> dict[str, float]:
    """Return bytes/s of a large copy, read plus written, and FLOP/s of a bf16 product of 8192."""
    # Never a roofline below the best copy seen on such a device.
    copy = max(_copied(), COPY.get(torch.cuda.get_device_name(), 0.0))
    product = _multiplied()
    torch.cuda.empty_cache()
    say(f"ceilings: copy {copy / 1e12:.2f} TB/s, bf16 product {product / 1e12:.0f} TFLOP/s")
    return {"copy": copy, "matmul": product}


def _copied() -> float:
    source = torch.randn(1 << 30, device="cuda").to(torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed(lambda: torch.neg(source, out=target))


def _multiplied() -> float:
    a, b = (torch.randn(8192, 8192, device="cuda").to(torch.bfloat16) for _ in "ab")
    return 2 * 8192**3 / timed(lambda: torch.mm(a, b))


def timed(run: Callable[[], Any], repeats: int = 20) -> float:
    """Return the median device seconds of a call."""
    times = []
    for _ in range(repeats + 3):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return median(times[3:])


def label(model: str, weights: str, kv: str, tp: int, activations: str = "") -> str:
    """Return what figures of these settings begin with: nothing for the 8 B shape in bf16."""
    parts = [] if model == SHAPE else [Path(model.removeprefix("random:")).name]
    parts += [] if weights == "bf16" else [weights]
    parts += [f"activations_{activations}"] if activations else []
    parts += [] if kv in ("", "bf16") else [f"kv_{kv}"]
    parts += [] if tp == 1 else [f"tp{tp}"]
    return "".join(f"{part}_" for part in parts)


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _decode_b1(bench: Bench) -> Figures:
    return bench.decode(1, 1024)


def _decode_b64(bench: Bench) -> Figures:
    return bench.decode(64, 1024)


def host_exposed(figures: Figures) -> Figures:
    """Return the largest share of a decode step in which the device waits for the host."""
    keys = [f"decode_b{batch}_host_exposed_fraction" for batch in (1, 64)]
    found = [figures[key] for key in keys if key in figures]
    return {"host_exposed_fraction": max(found)} if found else {}


def _workload(name: str) -> Callable[[Bench], Figures]:
    return lambda bench: bench.run(WORKLOADS[name])


def _long(bench: Bench) -> Figures:
    """Decode of one sequence of 128 K tokens; keys are read at the copy's rate, if at all."""
    found = bench.decode(1, bench.config.context_length - 256)
    return {key.replace("decode_b1", "decode_128k"): value for key, value in found.items()}


def _wide(bench: Bench) -> Figures:
    return bench.decode(256, 1024)


SECTIONS: dict[str, Callable[[Bench], Figures]] = {
    "decode_b1": _decode_b1, "decode_b64": _decode_b64, "prefill": lambda bench: bench.prefill(),
    **{name: _workload(name) for name in ("w4", "w1", "w2", "w3")}, "long": _long, "wide": _wide,
}  # fmt: skip


ASKED_FOR = ("long", "wide")
"""Sections that run only when they are named."""


def provenance(commit: str) -> Figures:
    """Return what figures depend on: machine, versions, commit, date."""
    import triton

    if not commit:
        command = ["git", "rev-parse", "--short", "HEAD"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        commit = found.stdout.strip()
    return {
        "machine": {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
                    "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "triton": triton.__version__, "cuda": torch.version.cuda},
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def record(figures: Figures, sections: list[str], commit: str, path: Path = RESULTS) -> None:
    """Merge figures into the results file; each section keeps when and where it was measured."""
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}, "sections": {}}
    known["figures"] |= figures
    known["sections"] |= dict.fromkeys(sections, provenance(commit))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run these sections")
    parser.add_argument("--model", default=SHAPE, help="a shape, or a folder")
    parser.add_argument("--weights", default="bf16", help="bf16, fp8 or int8")
    parser.add_argument("--kv", default="", help="bf16 or fp8 (default: bf16)")
    parser.add_argument("--activations", default="", help="bf16: not rounded beside fp8 weights")
    parser.add_argument("--tp", type=int, default=1, help="ranks, started by torchrun")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the first")
    parser.add_argument("--commit", default="", help="what is measured, where git is not at hand")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help=f"merge into {RESULTS.name}")
    options = parser.parse_args()
    changes = {"weights": options.weights, "kv": options.kv, "tp": options.tp,
               "activations": options.activations}  # fmt: skip
    bench = Bench(options.model, options.rounds, changes)
    say(f"{options.model} loaded in {bench.load_seconds:.1f} s")
    before = label(options.model, **changes)
    figures: Figures = {
        "copy_bytes_per_s": bench.ceilings["copy"], "matmul_flops": bench.ceilings["matmul"],
        "load_s": bench.load_seconds,
    }  # fmt: skip
    done, failed = [], {}
    for name in options.only or [name for name in SECTIONS if name not in ASKED_FOR]:
        try:
            figures |= SECTIONS[name](bench)
            done.append(before + name)
        except (RuntimeError, AssertionError) as error:
            failed[name] = str(error)
            say(f"{name} failed: {error!r}")
    figures |= host_exposed(figures)
    figures = {before + name: value for name, value in figures.items()}
    if options.record and done:
        record(figures, done, options.commit)
    if options.json:
        print(json.dumps(figures | ({"failed": failed} if failed else {})))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
