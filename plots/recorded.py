"""Figures that a benchmark recorded, with the machine, the commit and the day that they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.diagnostics import WeftError


class NoRecord(WeftError):
    """A record, a figure or a section that bench/results does not have."""

    kind = "record error"
    template = "{path} has no {what} {name!r}"
    hint = "bench/README.md names the command that records it"


class NoResults(WeftError):
    """No bench/results in the folder asked for, nor in the one that is being worked in or above."""

    kind = "record error"
    template = "there is no {path}"
    hint = "notebooks and bench/results are part of the repository: work in a checkout"


@dataclass(frozen=True)
class Recorded:
    """One file of bench/results: `record["figure"]`, and `provenance(section)` for a caption."""

    path: Path
    figures: Mapping[str, Any]
    sections: Mapping[str, Any]

    def __getitem__(self, figure: str) -> Any:
        if figure not in self.figures:
            raise NoRecord(path=f"bench/results/{self.path.name}", what="figure", name=figure)
        return self.figures[figure]

    def __contains__(self, figure: str) -> bool:
        return figure in self.figures

    def provenance(self, section: str) -> str:
        """Return where and when a section was measured: machine, commit, date, file."""
        if section not in self.sections:
            raise NoRecord(path=f"bench/results/{self.path.name}", what="section", name=section)
        entry = self.sections[section]
        machine = entry["machine"].get("gpu") or f"{entry['machine']['cpu']}, " + (
            f"{entry['machine'].get('cores', '?')} cores"
        )
        return (
            f"recorded on {machine}, commit {entry['commit']}, {entry['date']} "
            f"(bench/results/{self.path.name})"
        )


def recorded(name: str, folder: str | Path | None = None) -> Recorded:
    """Return bench/results/NAME.json; the folder is found from where one works upwards."""
    base = Path(folder) if folder is not None else _results()
    path = base / f"{name}.json"
    if not path.exists():
        raise NoResults(path=path)
    content = json.loads(path.read_text(encoding="utf-8"))
    return Recorded(path, content["figures"], content["sections"])


def _results() -> Path:
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "bench" / "results").is_dir():
            return folder / "bench" / "results"
    raise NoResults(path="bench/results")
