"""One page, of the essay judge on three rows, for all tests; and a browser that looks at it."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from weft.cost_model.hardware_file import load
from weft.explore.build import Wish, explore
from weft.explore.page import page
from weft.options import Options

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "</script><img src=x onerror='window.planted=1'>"


@pytest.fixture(scope="session")
def explored():
    """The data of the essay judge's page; one row holds what must not survive as markup."""
    rows = [json.loads(line) for line in (ROOT / "examples/data/essay_judge.jsonl").open()]
    rows[1] = {"essay": PLANTED + str(rows[1]["essay"]), "sides": ["clarity", PLANTED]}
    wish = Wish(
        ROOT / "examples/essay_judge.weft", "tiny-dense", options=Options.from_env(), rows=rows,
        assembly="take_rows", ptx="silu_mul",
    )  # fmt: skip
    found = explore(wish, load("cpu-generic"))
    assert found.error is None
    return found


@pytest.fixture(scope="session")
def kernel_of(explored):
    """Return `kernel_of(computes, step)`: the name of the kernel for it in a kind of step."""

    def find(computes, step="any step"):
        return next(
            kernel["name"] for kernel in explored.data["kernels"]
            if kernel["computes"] == computes and step in kernel["steps"]
        )  # fmt: skip

    return find


@pytest.fixture(scope="session")
def page_file(explored, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "index.html"
    file.write_text(page(explored), encoding="utf-8")
    return file


@pytest.fixture(scope="module")  # not longer: while it is open, other tests have no event loop
def browser():
    """Headless Chromium, driven by playwright; skips where one of them is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=120_000,
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def windows(browser):
    """Return `windows(width, height, scheme)`: a window, and its errors, logs and requests.

    Tests share it: to make one takes longer than to read the report into it.
    """

    @cache
    def window(width, height, scheme):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        seen, troubles = context.new_page(), []
        seen.set_default_timeout(120_000)
        seen.on("console", lambda message: troubles.append(message.text))
        seen.on("pageerror", lambda error: troubles.append(str(error)))
        seen.on("request", lambda request: troubles.append(f"asks for {request.url[:80]}")
                if not request.url.startswith(("file:", "blob:", "data:")) else None)  # fmt: skip
        return seen, troubles

    return window


@pytest.fixture
def visit(windows):
    """Return `visit(file, ...)`: an open page, whose errors and requests fail the test."""
    used = []

    def open_page(file, view="", width=1440, height=900, scheme="light"):
        seen, troubles = windows(width, height, scheme)
        used.append((seen, troubles))
        seen.goto(f"file://{file}{'#' + view if view else ''}")
        seen.wait_for_selector("body[data-ready]")
        return seen

    yield open_page
    found = []
    for seen, troubles in used:
        seen.goto("data:,")  # what is opened next begins anew
        found += troubles
        troubles.clear()  # they are this test's, not the next one's
    assert found == []
