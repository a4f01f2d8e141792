"""Keeps figures of the offloading bench in a file, section by section.

python -m bench.moe_record FILE       what `bench.moe_offload --out FILE` wrote, into results/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "moe_offload.json"
Figures = dict[str, Any]
Keep = Callable[[Figures, str], None]
"""Is given the figures so far, and the section that was measured last."""


def keeper(path: Path | None, commit: str) -> Keep:
    """Return what writes figures to a file (None: nowhere) after each section; of one that failed,
    why, and nothing that says it was measured."""
    done: list[str] = []

    def keep(figures: Figures, name: str) -> None:
        if path is None:
            return
        from .gpu_programs import provenance

        if name not in figures["why"]:
            done.append(name)
        record(figures, done, provenance(commit), path)

    return keep


def record(figures: Figures, names: list[str], source: Figures, path: Path) -> None:
    """Merge figures into a file; each section keeps where and when it was measured (`source`).

    What was not measured leaves what is known: null figures, runs of other settings, and variants,
    each of which keeps a source of its own.
    """
    known = json.loads(path.read_text()) if path.exists() else {"figures": {}, "sections": {}}
    old = known["figures"]
    runs = {(run["setting"], run.get("model")): run
            for run in (*old.get("measured", ()), *figures["measured"])}  # fmt: skip
    answered = {*names, *(key for key, value in figures.items() if value is not None)}
    why = {key: text for key, text in old.get("why", {}).items() if key not in answered}
    found = {key: value for key, value in figures.items() if value is not None or key not in old}
    found |= {"measured": list(runs.values()), "why": why | figures["why"]}
    if "variants" in figures:
        before = _of(old.get("variants", {}), known["sections"].get("variants"))
        found["variants"] = before | _of(figures["variants"], source)
    sections = known["sections"] | dict.fromkeys(names, source)
    path.write_text(json.dumps({"figures": old | found, "sections": sections}, indent=1) + "\n")


def _of(rows: Figures, source: Figures | None) -> Figures:
    """Return rows that say where they were measured: as they do, else here."""
    return {name: {"source": source, **row} for name, row in rows.items()}


def merge(file: Path, path: Path = RESULTS) -> list[str]:
    """Merge a file of figures into another; return its sections."""
    found = json.loads(file.read_text())
    for name, source in found["sections"].items():
        record(found["figures"], [name], source, path)
    return list(found["sections"])


def main() -> None:
    """Merge files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    for file in parser.parse_args().files:
        print(f"{file}: {', '.join(merge(file))}")


if __name__ == "__main__":
    main()
