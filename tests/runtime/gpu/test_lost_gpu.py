"""What a GPU leaves behind: finished rows of a run in which it fails, and memory pinned for it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import weft
from weft.runtime.devices.streams import CudaDevice
from weft.runtime.execution.key_device import CudaKeys

WORKER = Path(__file__).parent / "losing_worker.py"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ALREADY_PINNED = 712
"""cudaErrorHostMemoryAlreadyRegistered."""


@pytest.mark.gpu
@NO_GPU
def test_rows_that_are_done_when_a_gpu_fails_stand_in_the_journal(tmp_path: Path) -> None:
    def run(*how: str) -> dict[str, Any]:
        command = [sys.executable, str(WORKER), str(tmp_path), "cuda", *how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    lost, again = run("lose"), run()
    assert "device error: the GPU failed in mid-run: " in lost["error"], lost
    assert 4 <= lost["kept"] < 12 and lost["done"] == 0
    assert again == {"error": None, "resumed": lost["kept"], "kept": 0, "done": 12}


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("kind", [CudaKeys, CudaDevice])
def test_memory_of_a_device_that_nobody_has_is_pinned_no_more(kind: Any) -> None:
    runtime: Any = torch.cuda.cudart()
    device = kind(1 << 30)
    (device.host if kind is CudaDevice else device.reached)(1 << 22)
    (held,) = device._pinned if kind is CudaDevice else device.pinned

    def pin() -> int:
        error = int(runtime.cudaHostRegister(held.data_ptr(), held.nbytes, 0))
        with suppress(RuntimeError):  # the refusal is reported by the next launch, once
            torch.zeros(1, device="cuda")
        return error

    try:
        assert pin() == ALREADY_PINNED
        del device
        gc.collect()
        assert pin() == 0
        runtime.cudaHostUnregister(held.data_ptr())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_all_memory_that_is_pinned_is_remembered() -> None:
    """Where a device is lost, none of it may be freed: a destructor would end the process."""
    root = Path(weft.__file__).parent / "runtime"
    lines = [
        (path.name, line.strip())
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if "pin_memory" in line
    ]
    assert len(lines) >= 3
    assert not [each for each in lines if each[0] != "pinned.py" and "remembered(" not in each[1]]
