"""A model that this machine's memory does not hold is refused before its weights are read."""

from pathlib import Path

import pytest
import weft
from weft.runtime.devices import host_room
from weft.runtime.devices.device import GIB, ModelTooLarge
from weft.runtime.devices.host_room import available_bytes, require_host_room

PROGRAM = 'program p() -> str:\n    "Say."\n    gen word(max_tokens=2)\n    return word\n'


def machine(root: Path, free_kib: int, most: str | None, used: str, files: int) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {free_kib} kB\n")
    if most is not None:
        group = root / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        stat = f"anon 5\nfile 9999\ninactive_file {files - 1}\nactive_file 1\n"
        (group / "memory.stat").write_text(stat)
    return root


@pytest.mark.parametrize(
    ("most", "used", "files", "found"),
    [(None, "0", 1, 5120), ("max", "7", 1, 5120), ("4000", "1000", 1, 3001),
     ("4000", "3900", 2500, 2600)],
)  # fmt: skip
def test_the_kernel_and_the_group_say_what_is_free(most, used, files, found, tmp_path):
    """Files that were read, as a checkpoint's, are in what a group uses, and may be dropped."""
    assert available_bytes(machine(tmp_path, 5, most, used, files)) == found


def test_where_nobody_says_nothing_is_refused(tmp_path, monkeypatch):
    assert available_bytes(tmp_path) is None
    monkeypatch.setattr(host_room, "available_bytes", lambda: None)
    require_host_room("large", "f32", 1 << 60, 0)


@pytest.mark.parametrize(
    ("format", "weights", "hint"),
    [("f32", 30 * GIB, "--weights bf16"), ("bf16", 30 * GIB, "--weights int8"),
     ("f32", 90 * GIB, "--target cuda"), ("i8", 30 * GIB, "--target cuda")],
)  # fmt: skip
def test_a_model_that_is_too_large_is_told_by_how_much_and_what_fits(
    format, weights, hint, monkeypatch
):
    monkeypatch.setattr(host_room, "available_bytes", lambda: 20 * GIB)
    with pytest.raises(
        ModelTooLarge, match=r"GiB more than the 20\.0 GiB free on this machine"
    ) as e:
        require_host_room("large", format, weights, GIB)
    assert hint in str(e.value)
    require_host_room("small", format, 18 * GIB, GIB)


def test_a_step_that_takes_more_than_all_the_rest_is_named(monkeypatch):
    monkeypatch.setattr(host_room, "available_bytes", lambda: 20 * GIB)
    with pytest.raises(ModelTooLarge, match=r"takes 900\.0 GiB: lower max_tokens or max_batch"):
        require_host_room("small", "f32", GIB, GIB, 900 * GIB)
    require_host_room("small", "f32", GIB, GIB, GIB)


def test_keys_and_values_that_take_more_than_is_left_are_named(monkeypatch):
    monkeypatch.setattr(host_room, "available_bytes", lambda: 20 * GIB)
    with pytest.raises(ModelTooLarge, match=r"lower kv_memory \(--kv-memory\): 17\.0 GiB are left"):
        require_host_room("small", "f32", 2 * GIB, 900 * GIB, GIB)
    require_host_room("small", "f32", 2 * GIB, 17 * GIB, GIB)


def test_steps_of_more_tokens_than_memory_holds_are_refused():
    with pytest.raises(ModelTooLarge, match="lower max_tokens"):
        weft.compile(PROGRAM, max_tokens=1 << 30, prove=False)


def test_a_run_is_refused_before_its_weights_are_read(monkeypatch):
    monkeypatch.setattr(host_room, "available_bytes", lambda: 1 << 20)
    monkeypatch.setattr("weft.runtime.execution.weights.load_weights", None)  # it would be called
    with pytest.raises(ModelTooLarge, match="tiny-dense needs"):
        weft.compile(PROGRAM)
