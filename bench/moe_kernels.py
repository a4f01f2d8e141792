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

from .offload.kernels import CPUS


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

    from .moe_offload import full_bench, parser, settings_of
    from .offload.bench import say
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
