"""The machine code of CPU kernels, line by line, and the TVMScript line that each comes from.

TVM leaves debug locations in its LLVM IR, but not on the function into which it moves the body of
a parallel loop, so that the assembly has no lines just where the work is. Here the IR's text is
mended (the body's function takes over the subprogram) and assembled again: the instructions are
those of the kernel that runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .build import assemble, llvm_of

_DEFINE = re.compile(r"^define .*?@([\w.]+)\(.*\{$")
_SUBPROGRAM = re.compile(r" !dbg (!\d+)(?= \{$)")
_LOCATION = re.compile(r"^(!\d+) = (?:distinct )?!DILocation\(line: (\d+),.*scope: (!\d+)")
_AT = re.compile(r", !dbg (!\d+)(?:, .*)?$")
_TYPE = re.compile(r"^\s*\.type\s+([\w.$]+),@function")
_NOISE = re.compile(r"^\s*\.(?:cfi_|p2align|size|type|globl|file|ident|addrsig|text|section|loc\b)|"
                    r"^\.Ltmp\d+:|^\.Lfunc_(?:begin|end)\d+:")  # fmt: skip
_LOC = re.compile(r"^\s*\.loc\s+\d+ (\d+)")

Assembly = list[tuple[str, int]]
"""Lines, each with the line of the kernel's TVMScript (from 0) that it comes from; -1: none."""


def locate_assembly(sources: Mapping[str, str]) -> dict[str, Assembly]:
    """Return the assembly of kernels by name; `sources` is their TVMScript, by name.

    Compiles all of them as one module, which takes about half a second of processor time a kernel.
    """
    if not sources:
        return {}
    functions = _split(assemble(mended(llvm_of(sources))))
    starts, at = {}, 2  # module_text writes two lines before the first kernel
    for name, source in sources.items():
        starts[name] = at
        at += len(source.splitlines())
    return {name: _of_kernel(functions, name, starts[name], len(source.splitlines()))
            for name, source in sources.items()}  # fmt: skip


def mended(text: str) -> str:
    """Return LLVM IR in which each function has the subprogram that its locations name."""
    lines = text.split("\n")
    found = [match for line in lines if (match := _LOCATION.match(line))]
    scopes = {match[1]: match[3] for match in found}
    lined = {match[1] for match in found if match[2] != "0"}  # 0: what the compiler made up
    functions, owners = _functions(lines), dict[str, int]()
    for number, (_, body) in enumerate(functions):
        for line in body:
            at = _AT.search(line)
            if at and at[1] in lined:
                owners.setdefault(scopes[at[1]], number)
    return "\n".join(line for number, (head, body) in enumerate(functions)
                     for line in _owned(head, body, number, owners, scopes))  # fmt: skip


def _functions(lines: list[str]) -> list[tuple[str | None, list[str]]]:
    """Cut a module into functions (head, body to the closing brace) and what is between them."""
    parts: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in lines:
        if _DEFINE.match(line):
            parts.append((line, []))
            continue
        parts[-1][1].append(line)
        if line == "}" and parts[-1][0] is not None:
            parts.append((None, []))
    return parts


def _owned(
    head: str | None, body: list[str], number: int, owners: dict[str, int], scopes: dict[str, str]
) -> list[str]:  # fmt: skip
    """Return a function's lines with its own subprogram's locations only."""
    if head is None:
        return body
    mine = {scope for scope, owner in owners.items() if owner == number}
    has = _SUBPROGRAM.search(head)
    head = _SUBPROGRAM.sub("", head)
    if has and has[1] not in owners:
        mine.add(has[1])
    if mine:
        head = f"{head[:-1]}!dbg {min(mine)} {{"
    kept = []
    for line in body:
        if line.lstrip().startswith("#dbg_"):
            continue
        found = _AT.search(line)
        if found and scopes.get(found[1]) not in mine:
            line = line.replace(f", !dbg {found[1]}", "")
        kept.append(line)
    return [head, *kept]


def _of_kernel(functions: Mapping[str, list[str]], name: str, start: int, count: int) -> Assembly:
    """Return the functions that a kernel's work is in; unpacking of arguments is left out."""
    entry = f"__tvm_ffi_{name}"
    own = [one for one in functions if one == entry or one.startswith(f"{name}_compute_")]
    named = "\n".join(line for one in own for line in functions[one])
    own += [one for one in functions if one.startswith(".L__tvm") and f"{one}(" in named]
    found: Assembly = []
    for one in own:
        lines = _located(functions[one], start, count)
        if one != entry or any(line >= 0 for _, line in lines):
            found += [(f"{one}:", -1), *lines]
    return found


def _located(lines: list[str], start: int, count: int) -> Assembly:
    """Return a function's instructions and labels, with their lines in the kernel's text."""
    found: Assembly = []
    now = -1
    for line in lines:
        place = _LOC.match(line)
        if place:
            at = int(place[1]) - 1 - start
            now = at if 0 <= at < count else -1
        elif not _NOISE.match(line):
            found.append((line.replace("\t", "    ", 1).replace("\t", " "), now))
    return found


def _split(text: str) -> dict[str, list[str]]:
    """Return an assembly file's functions: their lines by their symbols."""
    found: dict[str, list[str]] = {}
    expected, current = "", None
    for line in text.split("\n"):
        if match := _TYPE.match(line):
            expected = match[1]
        elif expected and line.startswith(f"{expected}:"):
            current, expected = found.setdefault(expected, []), ""
        elif line.startswith(".Lfunc_end"):
            current = None
        elif current is not None:
            current.append(line)
    return found
