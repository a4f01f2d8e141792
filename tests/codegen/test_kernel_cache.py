"""The kernel cache: hits need no compiler, damage is repaired, any folder may fail."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, current_thread, main_thread

import pytest
import torch
from weft.codegen import build as build_module
from weft.codegen import cache as cache_module
from weft.codegen.build import NoRoomToBuild, SameName, compile_kernels
from weft.codegen.cache import CacheFull, KernelCache
from weft.codegen.kernel import Kernel
from weft.ir.core import Operation
from weft.ir.schedule import Schedule
from weft.passes.tile.builder import KernelBuilder

PROGRAM = """
import sys, time
from pathlib import Path
from weft.tests.codegen.test_kernel_cache import build, works
kernel = build(Path({folder!r}))
works(kernel)
print(int(kernel.statistics.cached), int('tvm' in sys.modules))
"""


def add_one(step: float = 1.0, name: str = "add_one") -> Operation:
    b = KernelBuilder(name)
    b.scalar("T")
    x, out = b.buffer("x", "f32", "T", 32), b.buffer("out", "f32", "T", 32)
    row, column = b.program_id(0), b.iota(32)
    b.store(out, row, column, b.map(f"a + {step}", b.load(x, row, column)))
    return b.finish("T", requires=("T >= 0",))


def build(folder: Path, schedule: Schedule | None = None, **options) -> Kernel:
    return compile_kernels([(add_one(), schedule or Schedule())], cache=folder, **options)[
        "add_one"
    ]


def works(kernel: Kernel) -> None:
    x, out = torch.randn(3, 32), torch.empty(3, 32)
    kernel.launch(3, x, out)
    assert torch.equal(out, x + 1)


def program(folder: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(folder=str(folder))]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    assert not build(folder).statistics.cached
    return folder


def library(folder: Path) -> Path:
    return next(folder.glob("*.so"))


def test_hit_without_the_compiler(filled: Path) -> None:
    answer = subprocess.run(program(filled), capture_output=True, text=True, check=True).stdout
    assert answer.split() == ["1", "0"]


def test_another_schedule_is_another_kernel(filled: Path) -> None:
    assert not build(filled, Schedule(parallel=False)).statistics.cached
    assert build(filled, Schedule(parallel=False)).statistics.cached


def test_kernels_that_are_there_are_not_compiled_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of several libraries; of a damaged one all of its kernels are compiled again."""
    compiled, compile = [], build_module._compile

    def counted(text: str, names: list[str], **rest: object) -> object:
        compiled.append(names)
        return compile(text, names, **rest)

    monkeypatch.setattr(build_module, "_compile", counted)
    kernels = [(add_one(step, name), Schedule()) for step, name in ((1, "one"), (2, "two"))]
    compile_kernels(kernels[:1], cache=tmp_path)
    (first,) = tmp_path.glob("*.so")
    found = compile_kernels(kernels, cache=tmp_path)
    assert [kernel.statistics.cached for kernel in found.values()] == [True, False]
    found = compile_kernels(kernels[::-1], cache=tmp_path)
    assert all(kernel.statistics.cached for kernel in found.values())
    assert compiled == [["one"], ["two"]]
    for step, kernel in ((1, found["one"]), (2, found["two"])):
        out = torch.zeros(1, 32)
        kernel.launch(1, torch.ones(1, 32), out)
        assert (out == 1 + step).all()
    first.unlink()
    compile_kernels(kernels, cache=tmp_path)
    assert compiled[2:] == [["one"]]


@pytest.mark.parametrize("damage", [b"", b"not a library", None])
def test_damage_is_repaired(tmp_path: Path, damage: bytes | None) -> None:
    build(tmp_path)
    path = library(tmp_path)
    content = path.read_bytes()
    path.unlink()  # this process has it mapped
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    kernel = build(tmp_path)
    assert not kernel.statistics.cached
    works(kernel)
    assert build(tmp_path).statistics.cached


def test_foreign_cpu_is_rebuilt(tmp_path: Path) -> None:
    build(tmp_path)
    record = next(tmp_path.glob("*.json"))
    record.write_text(record.read_text().replace(cache_module.host_signature(), "another cpu"))
    assert not build(tmp_path).statistics.cached


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(KernelCache, "writable", lambda self: False)
    heard: list[str] = []
    works(build(folder, report=lambda warning: heard.append(str(warning))))
    assert len(heard) == 1 and "cannot be written" in heard[0] and "WEFT_CACHE" in heard[0]
    assert not list(folder.iterdir())


def test_what_lies_in_a_temporary_folder_goes_with_the_process_that_made_it() -> None:
    """And not with one that was forked from it."""
    code = """if True:
        import os, sys
        from weft.codegen.cache import temporary_folder
        folder = temporary_folder()
        (folder / "kernels.so").write_bytes(b"")
        if (child := os.fork()) == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        print(folder, folder.is_dir())"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, there = told.stdout.split()
    assert there == "True" and not Path(folder).exists()


@pytest.mark.parametrize("when", ["tempfile.mkstemp", "os.replace"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"weft.codegen.cache.{when}", full)
    with pytest.raises(CacheFull, match="no space left"):
        KernelCache(tmp_path).write(tmp_path / "x.so", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_of_the_cache_loses_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "before":
        monkeypatch.setattr(cache_module.tempfile, "TemporaryFile", full)
    else:
        monkeypatch.setattr(cache_module.os, "replace", full)
    heard: list[str] = []
    works(build(tmp_path, report=lambda warning: heard.append(str(warning))))
    assert len(heard) == 1 and "No space left" in heard[0] and "WEFT_CACHE" in heard[0]
    assert not [*tmp_path.glob("*.so"), *tmp_path.glob("*.json")]


def test_full_disk_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM ends the process there, so nothing is compiled."""
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(build_module, "_compile", lambda *rest: pytest.fail("it compiled"))
    with pytest.raises(NoRoomToBuild, match=tempfile.gettempdir()) as caught:
        build(tmp_path)
    assert "TMPDIR" in caught.value.render()


def test_a_limit_of_file_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(cache_module.os, "replace", limited)
    with pytest.raises(CacheFull, match=f"{tmp_path}.*File too large"):
        KernelCache(tmp_path).write(tmp_path / "x.so", b"content")


@pytest.mark.slow  # two threads of a process take the same locks of files below
def test_two_processes_at_once(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(program(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=500)[0].split()[0] for process in both]
    assert sorted(answers) == [b"0", b"1"]
    assert len(list(tmp_path.glob("*.so"))) == 1


def test_who_waits_too_long_for_another_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That process may have been stopped (Ctrl-Z) in its midst."""
    monkeypatch.setattr(cache_module, "LOCK_SECONDS", 0.01)
    kernels, entered = KernelCache(tmp_path), []
    with kernels.locked(["key"]) as first, kernels.locked(["key", "another"]) as second:
        entered += [first, second]
    monkeypatch.setattr(cache_module, "LOCK_SECONDS", 200)
    with kernels.locked(["key"]) as third:
        entered.append(third)
    assert entered == [{"key"}, {"another"}, {"key"}]


def test_what_another_process_compiles_is_waited_for_and_the_rest_is_compiled_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other asks for a set that overlaps with ours: each kernel is compiled once. One that it
    comes to nothing with is compiled here."""
    kernels = [(add_one(step, f"add_{step}"), Schedule()) for step in (1, 2, 3)]
    compiled, compile, begun, go = [], build_module._compile, Event(), Event()

    def counted(text: str, names: list[str], **rest: object) -> object:
        compiled.append(names)
        if current_thread() is not main_thread():
            begun.set()
            assert go.wait(200)
            if names == ["add_3"]:
                raise RuntimeError("the other is ended")
        elif names == ["add_1"]:
            go.set()  # ours is done while the other still holds its own
        return compile(text, names, **rest)

    monkeypatch.setattr(build_module, "_compile", counted)
    for shared, fails in ((kernels[1], False), (kernels[2], True)):
        begun.clear()
        go.clear()
        with ThreadPoolExecutor(1) as other:
            theirs = other.submit(compile_kernels, [shared], cache=tmp_path / str(fails))
            assert begun.wait(200)
            found = compile_kernels([kernels[0], shared], cache=tmp_path / str(fails))
            assert (theirs.exception() is not None) == fails
        assert all(kernel.statistics.cached != fails or name == "add_1"
                   for name, kernel in found.items())  # fmt: skip
    assert compiled == [["add_2"], ["add_1"], ["add_3"], ["add_1"], ["add_3"]]


def test_what_killed_builds_have_left_goes_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, rest = tmp_path / "kernels", tmp_path / "temporary"
    whole = [kept / f"{'0' * 40}{ending}" for ending in (".so", ".json", ".kernel", ".table")]
    drafts = [Path(f"{path}.a_b0c1d{age}") for path in whole for age in "12"]
    names = ("weft-build-1", "weft-build-2", "weft-assemble-1", "weft-assemble-2", "another-1")
    folders = [rest / name for name in names]
    for folder in (kept, *folders):
        folder.mkdir(parents=True)
    for file in (*whole, *drafts, *(folder / "kernels.so" for folder in folders)):
        file.write_bytes(b"part")
    for old in (*whole, *drafts[::2], *folders[::2]):
        os.utime(old, (0, 0))
    monkeypatch.setattr(tempfile, "tempdir", str(rest))

    class Ended(Exception):
        pass

    def ended(*_: object) -> Path:
        raise Ended

    monkeypatch.setattr(build_module, "_build", ended)
    with pytest.raises(Ended):
        build(kept)
    assert {*whole, *drafts[1::2]} == {path for path in kept.iterdir() if path.suffix != ".lock"}
    assert sorted(rest.iterdir()) == sorted(folders[1:])
    with build_module._scratch(build_module.ASSEMBLY_FOLDER):
        assert folders[2] not in rest.iterdir() and folders[3] in rest.iterdir()


def test_who_emits_or_compiles_otherwise_takes_no_kernel_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, found = build_module.emitter_digest.__wrapped__, []
    found.append(digest())
    with monkeypatch.context() as changed:
        changed.setattr(build_module, "COMPILED_FOR", {"kind": "llvm"})
        found.append(digest())
    for module in (build_module.expression, build_module.types):
        other = tmp_path / "other.py"
        other.write_text(Path(str(module.__file__)).read_text() + "# more")
        with monkeypatch.context() as changed:
            changed.setattr(module, "__file__", str(other))
            found.append(digest())
    assert len({*found}) == 4 and digest() == found[0]


def test_what_a_person_may_see(filled: Path) -> None:
    kernel = build(filled)
    assert "@T.prim_func" in kernel.source and "tile.kernel" in kernel.tile
    assert "define" in kernel.inspect("llvm") and "vmovups" in kernel.inspect("assembly")


def test_two_kernels_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(SameName):
        compile_kernels([(add_one(), Schedule()), (add_one(2.0), Schedule())], cache=tmp_path)


@pytest.mark.parametrize("record", ["[1]", "7", "null", '{"sha256": 1}', "", "{"])
def test_a_record_that_says_nothing_is_no_library(tmp_path, record):
    """One that was JSON, but no object, ended the compilation with a Python error."""
    made, cache = tmp_path / "made.so", KernelCache(tmp_path)
    made.write_bytes(b"code")
    kept = cache.put("library", made, {"kernel": "key"})
    assert cache.find({"kernel": "key"}) == {"kernel": kept}
    kept.with_suffix(".json").write_text(record)
    assert cache.find({"kernel": "key"}) == {}
