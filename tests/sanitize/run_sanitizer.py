"""compute-sanitizer over the tests that run kernels on a GPU: `make sanitize`.

Each tool sees every kernel family, empty, of one token and ragged, with poisoned buffers; memcheck
the attention, sparse and product kernels of real sizes as well. Tensors are allocated one by one
(no caching allocator), so that an access beyond one is no access to its neighbour. First each tool
that a fault is planted for (`planted.py`) must find it. Exits with 1 where a fault is found, a test
fails, or a planted fault is not found; with 2 where there is no compute-sanitizer or no GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("/usr/local/cuda/bin",)
"""Where CUDA's tools lie where PATH does not name them."""
SIDE_BY_SIDE = 12
LIMIT_S = 1200.0

GLUON = (("tests/codegen/test_gluon.py",), ("tests/codegen/test_gluon_products.py",))
FAMILIES = ("tests/codegen/test_triton_gpu.py", "-k", "test_family")
LARGER = (
    ("tests/codegen/test_triton_gpu.py", "-k", "test_large_family"),
    ("tests/codegen/test_triton_gpu.py", "-k", "test_attention_parts"),
    ("tests/codegen/test_word_labels.py",),
    ("tests/codegen/test_sparse_kernels.py",),
    ("tests/codegen/test_sparse_parts.py", "tests/codegen/test_key_cache.py"),
    ("tests/codegen/test_streamed_products.py", "tests/codegen/test_sampling_parts.py"),
    ("tests/codegen/test_fp8.py", "tests/codegen/test_twelve_bits.py"),
    ("tests/codegen/test_attention_prompts.py", "tests/codegen/test_grouped_parts.py"),
    ("tests/codegen/test_joined_parts.py", "tests/codegen/test_list_shares.py"),
    *GLUON,
)
MEETING = ("tests/codegen/test_meetings.py",)
CHECKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "memcheck": (FAMILIES, *LARGER, MEETING),
    "racecheck": (FAMILIES, MEETING),
    "synccheck": (FAMILIES, MEETING, *GLUON),
    "initcheck": (FAMILIES, *GLUON),
}
"""What each tool watches: selections of tests, each a process of its own. Of specialised warps
racecheck names those words of shared memory in which Triton tells them their part, too."""

SUMMARY = re.compile(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)")


@dataclass(frozen=True)
class Report:
    """What one process under a tool came to: faults found (None: no summary), and pytest's code."""

    tool: str
    what: str
    faults: int | None
    code: int
    output: str

    @property
    def clean(self) -> bool:
        """Whether the tool ran to its end and found nothing, and the tests passed."""
        return self.faults == 0 and self.code == 0


def faults_in(output: str) -> int | None:
    """Return how many faults the tool's last summary counts; None where it has written none."""
    found = SUMMARY.findall(output)
    return int(found[-1][0] or found[-1][1]) if found else None


def sanitizer() -> str | None:
    """Return where compute-sanitizer lies, or None."""
    return shutil.which("compute-sanitizer") or next(
        (found for place in PLACES if (found := shutil.which("compute-sanitizer", path=place))),
        None,
    )


def watch(program: str, tool: str, command: Sequence[str], what: str) -> Report:
    """Run a command under a tool."""
    done = subprocess.run(
        [program, "--tool", tool, "--target-processes", "all", *command],
        cwd=ROOT, env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, timeout=LIMIT_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return Report(tool, what, faults_in(done.stdout), done.returncode, done.stdout)


def watch_tests(program: str, tool: str, tests: Sequence[str]) -> Report:
    """Run tests under a tool; a process in which no test ran is not clean."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *tests]
    return watch(program, tool, command, " ".join(tests))


def watch_planted(program: str, tool: str) -> Report:
    """Run the fault that is planted for a tool."""
    planted = str(Path(__file__).parent / "planted.py")
    return watch(program, tool, [sys.executable, planted, tool], "a planted fault")


def main() -> int:
    """Run all checks side by side; print a line each, and the output of what is not clean."""
    import torch

    program = sanitizer()
    if program is None or not torch.cuda.is_available():
        missing = "no NVIDIA GPU" if program else "no compute-sanitizer (it comes with CUDA)"
        print(f"nothing was checked: there is {missing} here", file=sys.stderr)
        return 2
    from weft.tests.sanitize.planted import PLANTED

    bad = 0
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        planted = [pool.submit(watch_planted, program, tool) for tool in PLANTED]
        checks = [
            pool.submit(watch_tests, program, tool, tests)
            for tool, selections in CHECKS.items()
            for tests in selections
        ]
        for report in (each.result() for each in planted):
            bad += not report.faults
            print(f"{report.tool:10s} {'found' if report.faults else 'NOT FOUND'}: {report.what}")
        for report in (each.result() for each in checks):
            bad += not report.clean
            faults = "no summary" if report.faults is None else f"{report.faults} faults"
            print(f"{report.tool:10s} {faults}, tests end with {report.code}: {report.what}")
            if not report.clean:
                print(report.output)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
