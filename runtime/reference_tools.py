"""Tools as the oracle calls them: one at a time, in a thread that nobody waits for longer than the
call may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from inspect import isawaitable
from threading import Thread
from typing import Any

from ..ir.values import TIMEOUT

UNLESS_DECLARED = 30.0
"""Seconds that a call may take where the tool declares no timeout."""


class NoAnswer(Exception):
    """A call without a value: the kind of its error, and what that says."""

    @property
    def said(self) -> tuple[str, str]:
        """The kind and the message of the error value."""
        return self.args[0], self.args[1]


def answer(function: Callable[..., Any], operands: Sequence[Any], timeout: float | None) -> Any:
    """Return what a tool's function gives; raises NoAnswer where it raises, or takes too long.

    What takes longer than its time (s) goes on in its thread, as the engine lets it.
    """
    seconds = UNLESS_DECLARED if timeout is None else timeout
    found: list[Any] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            value = function(*operands)
            found.append(asyncio.run(_awaited(value)) if isawaitable(value) else value)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        error = raised[0]
        text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        raise NoAnswer(type(error).__name__, text)
    if not found:
        raise NoAnswer(TIMEOUT, f"did not answer in {seconds:g} s")
    return found[0]


async def _awaited(value: Any) -> Any:
    return await value
