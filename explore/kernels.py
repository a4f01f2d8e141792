"""Kernels of a compilation: their texts, line by line, and the statements they work for."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..codegen.build import emitter_digest
from ..codegen.cache import CacheFull, KernelCache, default_folder, host_signature, key_of
from ..codegen.locate import Located, locate_ptx, locate_tile, locate_triton, locate_tvm
from ..codegen.locate_assembly import locate_assembly
from ..compiler import Compilation
from ..ir.core import Operation
from ..ir.diagnostics import KernelError
from ..ir.schedule import Schedule
from ..passes.tile.regimes import merge_kernels
from ..passes.tile.rows.sampling import sampling_kernels
from .stages import regime_name

Pair = tuple[Operation, Schedule]
_DECODES = frozenset({"plan.decode"})
_PREFILLS = frozenset({"plan.extend", "plan.select", "plan.score", "plan.fork"})


def all_kernels(compilation: Compilation) -> dict[str, Pair]:
    """Return every kernel with its schedule, those of the regimes first, then the sampler's."""
    vocabulary = compilation._need_checkpoint().config.vocab_size
    pairs = merge_kernels(compilation.regimes) + sampling_kernels(vocabulary)
    return {operation["name"].name: (operation, schedule) for operation, schedule in pairs}


def described(compilation: Compilation, kernels: Mapping[str, Pair]) -> list[dict[str, Any]]:
    """Return what the page's list says of each kernel."""
    steps: dict[str, list[int]] = {}
    for regime in compilation.regimes:
        for kernel, _ in regime.kernels:
            steps.setdefault(kernel["name"].name, []).append(regime.rows)
    return [
        {"name": name, "computes": str(operation.attribute("of") or "sampling"),
         "steps": [regime_name(rows) for rows in steps.get(name, [])],
         "schedule": repr(schedule)}
        for name, (operation, schedule) in kernels.items()
    ]  # fmt: skip


def packed(kernels: Mapping[str, Pair], machine_code: Sequence[str], ptx: Sequence[str],
           cache: Path | None) -> dict[str, str]:  # fmt: skip
    """Return each kernel's texts, compressed: a browser opens one when it is looked at.

    `machine_code` names those whose assembly is wanted, `ptx` those whose PTX is.
    """
    tvm = {name: locate_tvm(*pair) for name, pair in kernels.items()}
    wanted = {name: "\n".join(tvm[name].lines) + "\n" for name in machine_code}
    assembly = assembly_of(wanted, cache)
    found: dict[str, str] = {}
    for name, pair in kernels.items():
        panes = [_pane("tile", "Tile IR", "ir", locate_tile(pair[0]))]
        panes += _triton(pair)
        panes.append(_pane("tvm", "TVMScript", "python", tvm[name]))
        if name in assembly:
            panes.append(_assembly(assembly[name], tvm[name]))
        if name in ptx:
            panes.append(_ptx(pair))
        text = json.dumps(panes, separators=(",", ":"))
        found[name] = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return found


def assembly_of(sources: Mapping[str, str], cache: Path | None) -> dict[str, Any]:
    """Return `locate_assembly` of some kernels, from the cache on disk if it is there."""
    store = KernelCache(cache or default_folder())
    key = key_of("assembly", *sources.values(), host_signature(), emitter_digest())
    path = store.folder / f"{key}.lines.gz"
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, ValueError, EOFError):
        found = locate_assembly(sources)
    with suppress(CacheFull):  # it is compiled anew for the next page
        if found and store.writable():
            store.write(path, gzip.compress(json.dumps(found).encode()))
    return found


def _triton(pair: Pair) -> list[dict[str, Any]]:
    try:
        return [_pane("triton", "Triton", "python", locate_triton(*pair))]
    except KernelError as error:
        lines = ["# " + error.message]
        return [_pane("triton", "Triton", "python", Located(tuple(lines), ((),)))]


def _ptx(pair: Pair) -> dict[str, Any]:
    try:
        text = locate_ptx(*pair)
    except KernelError as error:
        text = Located(("// " + error.message,), ((),))
    return _pane("ptx", "PTX, sm_90", "assembly", text)


def _pane(name: str, title: str, language: str, text: Located) -> dict[str, Any]:
    return {"id": name, "title": title, "language": language, "lines": text.lines,
            "origins": [list(found) for found in text.origins]}  # fmt: skip


def _assembly(lines: Sequence[tuple[str, int]], tvm: Located) -> dict[str, Any]:
    origins = [list(tvm.origins[at]) if at >= 0 else [] for _, at in lines]
    return {"id": "assembly", "title": "Assembly", "language": "assembly",
            "lines": [text for text, _ in lines], "origins": origins}  # fmt: skip


def statements(compilation: Compilation, kernels: Mapping[str, Pair]) -> dict[str, list[str]]:
    """Return the kernels that work for each source line, by what its plan operations ask for.

    A decode takes the kernels of decode steps and the sampler's; what is added to a prompt takes
    those of steps of many rows.
    """
    regimes = {regime.rows: [k["name"].name for k, _ in regime.kernels]
               for regime in compilation.regimes}  # fmt: skip
    decode = list(dict.fromkeys(name for rows, names in regimes.items() if rows for name in names))
    placed = {name for names in regimes.values() for name in names}
    decode += [name for name in kernels if name not in placed]
    source, found = compilation.opened.source.name, dict[int, dict[str, None]]()
    for operation in compilation.plan.walk():
        names = decode if operation.name in _DECODES else []
        names = names or (regimes.get(0, []) if operation.name in _PREFILLS else [])
        span = operation.span
        if names and span is not None and span.source == source:
            for line in range(span.line, span.end_line + 1):
                found.setdefault(line, {}).update(dict.fromkeys(names))
    return {str(line): list(names) for line, names in sorted(found.items())}
