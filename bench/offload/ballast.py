"""Holds GPU memory in a process of its own, so that a cap binds libraries too: not torch alone.

python -m bench.offload.ballast BYTES    takes so much, prints the bytes free, waits
"""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

import torch

CONTEXT = 600 << 20
"""Bytes that another process' CUDA context takes."""


class NoBallast(Exception):
    """A ballast that could not be taken: the cap would not hold."""


class Ballast:
    """A context in which only `cap` bytes of the GPU are left to this process."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._process: subprocess.Popen[str] | None = None
        self.left = 0
        """Bytes of the GPU that are free once the ballast is there; 0 without a GPU."""

    def __enter__(self) -> Ballast:
        if torch.cuda.is_available():
            free, _ = torch.cuda.mem_get_info()
            size = free - self._cap - CONTEXT
            command = [sys.executable, "-m", "bench.offload.ballast", str(size)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self._process.stdout is not None
            if not self._process.stdout.readline().strip():
                raise NoBallast(f"{size} bytes of GPU memory could not be taken, {free} were free")
            self.left, _ = torch.cuda.mem_get_info()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._process is not None:
            self._process.communicate()


def main() -> None:
    """Take the memory, say so, keep it until the input ends."""
    held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
    print(torch.cuda.mem_get_info()[0], held.numel(), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
