"""Where kernels of these tests run: in a Triton interpreter, or on a GPU."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Interpreter:
    """A process in which Triton interprets kernels on the CPU (the mode holds for a process)."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "interpreter_worker.py"), str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def run(self, kernel: Any, arguments: list[Any]) -> list[Any]:
        """Return the arguments as they are after the kernel ran."""
        assert self._process.stdin and self._process.stdout
        pickle.dump((kernel, arguments), self._process.stdin)
        self._process.stdin.flush()
        ok, result = pickle.load(self._process.stdout)
        if not ok:
            raise AssertionError(f"the Triton interpreter failed:\n{result}")
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="session")
def triton_interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    """Return a running Triton interpreter."""
    pytest.importorskip("triton")
    interpreter = Interpreter(tmp_path_factory.mktemp("triton"))
    yield interpreter
    interpreter.close()


@pytest.fixture
def gpu(tmp_path: Path) -> Callable[..., list[Any]]:
    """Return what runs a kernel on the GPU, for tests marked `gpu`; skips without one."""
    import torch
    from weft.tests.codegen.gpu_run import on_gpu

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return partial(on_gpu, folder=tmp_path)


@pytest.fixture
def ours_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail where a kernel's text is left to TVM's parser, which takes far longer."""
    pytest.importorskip("tvm")

    def refused(text: str, extra_vars: object) -> None:
        raise AssertionError("our reader of TVMScript left a text to TVM's parser")

    monkeypatch.setattr("tvm.script.from_source", refused)
