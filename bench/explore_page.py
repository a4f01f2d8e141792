"""How long the explorer's page takes to open in headless Chromium: from navigation to ready.

`python -m bench.explore_page [--json]` explores the shipped example whose page is the largest, with
all kernels' machine code and its rows, and opens the page from disk a few times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from weft.cost_model.hardware_file import load
from weft.explore.build import Wish, explore
from weft.explore.page import page
from weft.options import Options

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
READY = "performance.mark('ready').startTime"
"""Milliseconds since navigation began."""


def largest() -> tuple[str, str]:
    """Return the name and the page of the example whose page without machine code is largest."""
    sizes = {file.stem: len(_page(file, None)) for file in sorted(EXAMPLES.glob("*.weft"))}
    name = max(sizes, key=lambda key: sizes[key])
    return name, _page(EXAMPLES / f"{name}.weft", "")


def opening(file: Path, rounds: int) -> list[dict[str, float]]:
    """Return, each round in a fresh browser context, milliseconds to DOM ready and to ready."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)))
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(rounds):
            seen = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            seen.goto(f"file://{file}", wait_until="commit")
            ready = seen.wait_for_function(f"document.body?.dataset.ready && {READY}").json_value()
            dom = seen.evaluate(
                "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            )
            found.append({"dom_ms": dom, "ready_ms": ready})
            seen.context.close()
        browser.close()
    return found


def _page(file: Path, assembly: str | None) -> str:
    data = EXAMPLES / "data" / f"{file.stem}.jsonl"
    lines = data.read_text().splitlines() if data.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()] if assembly is not None else []
    options = Options.from_env()
    found = explore(
        Wish(file, "tiny-dense", options=options, rows=rows, assembly=assembly), load("cpu-generic")
    )
    if found.error is not None:
        raise found.error
    return page(found)


def main() -> None:
    """Print the figures; with --json, one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    name, text = largest()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index.html"
        file.write_text(text, encoding="utf-8")
        rounds = opening(file, arguments.rounds)
    record: dict[str, Any] = {"example": name, "page_bytes": len(text.encode())}
    for key in ("dom_ms", "ready_ms"):
        record[key] = round(median(one[key] for one in rounds), 1)
        record[f"{key}_worst"] = round(max(one[key] for one in rounds), 1)
    if arguments.json:
        print(json.dumps(record))
    else:
        print("\n".join(f"{key:>16}  {value}" for key, value in record.items()))


if __name__ == "__main__":
    main()
