"""The CPU's kernels of the offloading bench, compiled for another machine.

    python -m bench.moe_kernels FOLDER                       for each CPU of CPUS, and the runtime
    python -m bench.moe_kernels FOLDER --kv f32              with keys and values of f32
    python -m bench.moe_offload --kernels FOLDER ...         there: the best that its CPU can run

A machine without the TVM compiler needs FOLDER/site on its PYTHONPATH (the TVM runtime, 3 MB) and
the package apache-tvm-ffi. Kernels, and pipelines, are proven here, where the solver is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

CPUS = {
    "sapphirerapids": ("avx512_bf16", "avx512_fp16", "amx_tile"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512vl"),
    "x86-64-v3": ("avx2", "fma"),
}
"""LLVM's names of CPUs, the best first, and the flags that tell them."""


class NoKernels(Exception):
    """A machine that none of the compiled kernels is for."""


def use(folder: Path) -> str:
    """Let kernels come from a folder's best part for this CPU; return which."""
    flags = set(_flags())
    for cpu, wanted in CPUS.items():
        if flags.issuperset(wanted) and (folder / cpu).is_dir():
            os.environ["WEFT_CPU"], os.environ["WEFT_CACHE"] = cpu, str(folder / cpu)
            return cpu
    raise NoKernels(f"{folder} has kernels for none of this CPU's kinds")


def compiled(folder: Path, cpus: list[str], kv: str = "bf16") -> None:
    """Compile for each CPU, in a process of its own, and put the runtime beside."""
    for cpu in cpus:
        environment = {**os.environ, "WEFT_CPU": cpu, "WEFT_CACHE": str(folder / cpu)}
        command = [sys.executable, "-m", "bench.moe_kernels", "--here", "--kv", kv]
        subprocess.run(command, env=environment, check=True)
    _runtime(folder / "site")


def compile_here(kv: str) -> None:
    """Compile the host's kernels of all settings and of `weft calibrate` into WEFT_CACHE, and prove
    the settings' pipelines."""
    from weft.codegen.measure.cpu import probe_kernels
    from weft.options import Options
    from weft.tuning.machine import attention_probe

    from .moe_offload import full_bench, parser, say, settings_of
    from .offload.runs import offloading
    from .offload.smoke import settings as smoke_settings

    probe_kernels(1, Options.from_env().cache)
    attention_probe(1, 1, Options.from_env().cache)
    known: set[str] = set()
    every = settings_of(full_bench(parser().parse_args(["--kv", kv])))
    for setting in (*smoke_settings("cuda", kv), *every):
        made = offloading(setting)
        kernels = made.lowered.kernels["host"]
        text = " ".join(op["name"].name for op, _ in kernels)
        if text not in known:
            made.kernels([])
            say(f"{text}")
            known.add(text)
        if setting.schedule not in known:
            made.module  # noqa: B018  (the pass proves the pipeline)
            known.add(setting.schedule)


def _runtime(site: Path) -> None:
    """Copy what loads kernels: the runtime's library, and the metadata with its version."""
    package = distribution("apache-tvm")
    library = next(f for f in package.files or () if f.name == "libtvm_runtime.so")
    (site / "tvm" / "lib").mkdir(parents=True, exist_ok=True)
    shutil.copy(str(library.locate()), site / "tvm" / "lib" / "libtvm_runtime.so")
    metadata = site / f"apache_tvm-{package.version}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: apache-tvm\n"
                                       f"Version: {package.version}\n")  # fmt: skip


def _flags() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return line.partition(":")[2].split()
    return []


def main() -> None:
    """Compile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--cpus", nargs="+", choices=list(CPUS), default=list(CPUS)[:2])
    parser.add_argument("--here", action="store_true", help="into WEFT_CACHE, for WEFT_CPU")
    parser.add_argument("--kv", default="bf16", choices=("f32", "bf16"), help="keys and values")
    options = parser.parse_args()
    if options.here:
        compile_here(options.kv)
    elif options.folder is None:
        parser.error("a folder, please")
    else:
        compiled(options.folder.absolute(), options.cpus, options.kv)


if __name__ == "__main__":
    main()
