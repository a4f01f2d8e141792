"""Connections to an endpoint, and how a thread that waits at one is told that nobody waits for it.

A read of a socket in another thread ends when that socket is shut down; `httpx` has no call for
it, but tells of the sockets that it opens (its extension `trace`).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


class Cancelled(Exception):
    """The run that a call belonged to is over."""


class Over(threading.Event):
    """Set when nobody waits for a call any more; the connection that it waits at is shut then."""

    def __init__(self) -> None:
        super().__init__()
        self._shutting = threading.Lock()
        self._shut: Callable[[], None] | None = None

    def set(self) -> None:
        """Say that it is over."""
        super().set()
        with self._shutting:
            if self._shut is not None:
                self._shut()

    @contextmanager
    def shuts(self, line: Line) -> Iterator[None]:
        """Let the end shut a connection, for as long as a call has it; raises Cancelled."""
        with self._shutting:
            line.open, self._shut = True, line.shut
        try:
            if self.is_set():
                raise Cancelled
            yield
        finally:
            with self._shutting:
                self._shut = None


class Line:
    """One connection: a call has it at a time, and the next one goes on with it."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.open = True
        self._stream: Any = None

    def hear(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of a socket that has been opened: an extension `trace` of a request."""
        stream = info.get("return_value")
        if event.endswith(".complete") and hasattr(stream, "get_extra_info"):
            self._stream = stream
            if not self.open:  # it was shut while the socket was being opened
                self.shut()

    def shut(self) -> None:
        """End what reads and writes at the connection, in whatever thread."""
        self.open = False
        if self._stream is not None:
            with suppress(OSError):
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
