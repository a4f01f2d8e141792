"""What is written to standard error past Python while it is unheard, and after."""

from __future__ import annotations

import os

import pytest
from weft.runtime.devices.quiet import unheard


def test_nothing_is_heard_meanwhile_and_all_after(capfd: pytest.CaptureFixture[str]) -> None:
    opened = len(os.listdir("/dev/fd"))
    with pytest.raises(KeyError), unheard():
        os.write(2, b"a warning of C++\n")
        raise KeyError
    os.write(2, b"an error\n")
    assert capfd.readouterr().err == "an error\n"
    assert len(os.listdir("/dev/fd")) == opened


def test_a_process_without_standard_error_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(number: int) -> int:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(os, "dup", gone)
    with unheard():
        pass
