"""One engine in a process of its own, which decodes when asked: threads never meet another's.

The parent writes `steps` a line; the worker answers with seconds and tokens, as JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A peer or weft in a child process; `spec` says which engine, model, batch and threads."""

    def __init__(self, spec: dict[str, Any], prompt: Sequence[int]) -> None:
        from weft.codegen.threads import without_library_wait  # not in the worker of a peer

        self.spec = spec
        threads = str(spec["threads"])
        environment = without_library_wait(os.environ) | {
            "OMP_NUM_THREADS": threads,
            "TVM_NUM_THREADS": threads,
        }
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engines.worker", json.dumps([spec, list(prompt)])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        self.start_s: float = self._answer()["seconds"]
        self.tokens: list[int] = []
        self.best_rate = 0.0
        """Tokens/s of the fastest step yet: what a machine without other tenants would show."""

    def decode(self, steps: int) -> float:
        """Decode `steps` tokens in every sequence; return tokens/s of all, from the median step.

        The median leaves out steps in which another process held a core.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.tokens = answer["tokens"]
        self.best_rate = max(self.best_rate, self.spec["batch"] / answer["best"])
        return self.spec["batch"] / answer["seconds"]

    def close(self) -> None:
        """End the process and wait for its memory to be free."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or ["no message"]
            raise EngineFailed(f"{self.spec['engine']}: {last[0][:300]}")
        return json.loads(line)


class EngineFailed(Exception):
    """An engine that could not be loaded or run; the message is its last line."""


def make_engine(spec: dict[str, Any]) -> Any:
    """Return the engine of a spec: it has `decode(prompt, steps) -> (tokens, step times)`."""
    batch, context, threads = spec["batch"], spec["context"], spec["threads"]
    path = Path(spec["path"])
    if spec["engine"] == "llama.cpp":
        from .llamacpp import LlamaCpp

        return LlamaCpp(path, batch, context, threads, spec["kv"])
    if spec["engine"] == "weft":
        from .weft_decode import WeftDecode

        return WeftDecode(path, batch, context, threads, spec["format"])
    from .hf import Transformers

    return Transformers(path, batch, context, threads, spec["mode"], spec["format"])


def main() -> None:
    """Load the engine, warm it up with one decode, then answer requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    from ..measure import seconds

    spec, prompt = json.loads(sys.argv[1])
    engine: Any = None

    def warm() -> None:
        nonlocal engine
        engine = make_engine(spec)
        engine.decode(prompt, 4)

    print(json.dumps({"seconds": seconds(warm)}), file=answers, flush=True)
    for line in sys.stdin:
        tokens, steps = engine.decode(prompt, int(line))
        answer = {"seconds": statistics.median(steps), "best": min(steps), "tokens": tokens[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
