"""Shows a run as it happens: one line a running generation, finished ones above, a status line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread
from time import perf_counter
from typing import Any

from .render import console, remarks


class LiveView:
    """A listener of run events that draws on a terminal, or prints whole values elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.live import Live

        self._quiet = quiet
        self._texts: dict[str, str] = {}
        self._pieces = 0
        self._start = perf_counter()
        drawn = remarks().is_terminal and not quiet
        self._live = (
            Live(console=remarks(), transient=True, refresh_per_second=12) if drawn else None
        )

    def __enter__(self) -> LiveView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def text(self, name: str, path: tuple[Any, ...], piece: str) -> None:
        """Take more text of a generation."""
        label = label_of(name, path)
        self._texts[label] = self._texts.get(label, "") + piece
        self._pieces += 1
        self._draw()

    def value(self, name: str, path: tuple[Any, ...], value: Any) -> None:
        """Take the value of a gen, a select or a fork."""
        label = label_of(name, path)
        self._texts.pop(label, None)
        if not self._quiet:
            shown = value if isinstance(value, str) else as_json(value)
            remarks().print(f"[bold cyan]{label}[/] {_escape(shown)}")
        self._draw()

    def _draw(self) -> None:
        if not self._live:
            return
        from rich.console import Group
        from rich.text import Text

        width = max(20, remarks().width - 4)
        lines = [
            Text.assemble((f"{label} ", "cyan"), text.replace("\n", " ")[-width:])
            for label, text in self._texts.items()
        ]
        elapsed = perf_counter() - self._start
        status = f"{len(self._texts)} running, {self._pieces} pieces, {elapsed:.1f} s"
        self._live.update(Group(*lines, Text(status, "dim")))


class LoadingBar:
    """Shows how much of a model's weights is loaded, on a terminal and if it takes a while."""

    LEAST = 256 << 20
    """Bytes of weights from which there is something to show."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("loading weights"), BarColumn(), DownloadColumn(binary_units=True),
                   TimeElapsedColumn())  # fmt: skip
        hidden = quiet or not remarks().is_terminal
        self._bar = Progress(*columns, console=remarks(), disable=hidden, transient=True)
        self._task: Any = None

    def __enter__(self) -> LoadingBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def show(self, loaded: int, total: int) -> None:
        """Take how many bytes are loaded, and of how many."""
        if total < self.LEAST:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=loaded)


PATIENCE = 4.0
"""Seconds after which something that takes long is said to."""


def compiling(quiet: bool = False, target: str = "cpu") -> AbstractContextManager[None]:
    """Say what takes so long, once, where compiling does: on a CPU, what has its kernels already
    never imports the compiler."""
    said = "still compiling: the first run of a model on a machine makes its kernels"
    return waiting(said, quiet, lambda: target != "cpu" or "tvm" in sys.modules)


@contextmanager
def waiting(
    said: str, quiet: bool = False, holds: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Say `said`, once, where what is done meanwhile takes longer than PATIENCE and it holds."""
    ended = Event()

    def tell() -> None:
        while not ended.wait(PATIENCE):
            if holds() and not ended.is_set():
                remarks().print(said, style="dim")
                return

    if not quiet:
        Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def label_of(name: str, path: tuple[Any, ...]) -> str:
    """Return the label of a generation: reviews[0].review."""
    steps = [f"{fork}[{branch}]" for fork, _, branch in path]
    return ".".join([*steps, name])


def as_json(value: Any) -> str:
    """Return a value as one line of JSON."""
    from ..ir.values import portable_json

    return portable_json(value, default=str)


def print_value(value: Any) -> None:
    """Print a program's result on standard output: text as it is, the rest as JSON."""
    console().print(value if isinstance(value, str) else as_json(value), markup=False)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
