"""Ctrl-C while an engine is shared: it is heard when books are whole, not between two lines.

Python raises KeyboardInterrupt in the main thread before whichever line comes next. Were that one
of a step's, a request could be in no queue, a row in the batch by half, or a token in its sequence
and unknown to its constraint; rows of other threads, and those that run later, would pay for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which a machine that is given back ends its processes, heard as Ctrl-C is."""


class _Keyboard:
    """What a process hears: there is one handler of its signals, and its main thread runs it."""

    def __init__(self) -> None:
        self.listeners: list[object] = []
        self.deep = 0
        """How many locks the main thread holds, or waits for."""
        self.pressed: type[KeyboardInterrupt] | None = None
        """What is to be raised when the last lock is let go."""

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt where no lock is held; when it is let go, if one is.

        A second one does not wait: a step may take long, and what is called from it hang.
        """
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.deep and self.pressed is None:
            self.pressed = kind
            return
        self.pressed = None
        raise kind


_keyboard = _Keyboard()


def interrupted() -> bool:
    """Return whether Ctrl-C waits until the main thread lets its locks go."""
    return _keyboard.pressed is not None


@contextmanager
def heard_between_steps() -> Iterator[None]:
    """Let `Turn` locks postpone Ctrl-C; nothing changes where a program handles it its own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, _keyboard.hear):
        yield
        return
    listener = object()
    try:
        try:
            _keyboard.listeners.append(listener)
            signal.signal(signal.SIGINT, _keyboard.hear)
            yield
        finally:
            _leave(listener)
    finally:
        _leave(listener)  # Ctrl-C may have come before a line of the first, and ended that


def _leave(listener: object) -> None:
    """Forget a listener, if it is still known."""
    if listener in _keyboard.listeners:
        _keyboard.listeners.remove(listener)
    _restore()


@contextmanager
def termination_heard() -> Iterator[None]:
    """Raise Terminated for SIGTERM, as Ctrl-C is raised; nothing changes where it is handled."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _keyboard.hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _restore() -> None:
    """Give the signal back when nobody listens any more: generators are closed by any thread."""
    if not _keyboard.listeners and threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) == _keyboard.hear:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Turn:
    """A lock; Ctrl-C is raised in its holder when it has let go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main = threading.main_thread().ident

    def __enter__(self) -> None:
        if threading.get_ident() != self._main:
            self._lock.acquire()
            return
        _keyboard.deep += 1  # before it is there: else an interrupt could leave it locked
        try:
            self._lock.acquire()
        except BaseException:
            _keyboard.deep -= 1
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._lock.release()
        if threading.get_ident() == self._main:
            _keyboard.deep -= 1
            if _keyboard.pressed is not None and not _keyboard.deep:
                kind, _keyboard.pressed = _keyboard.pressed, None
                raise kind
