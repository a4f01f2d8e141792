"""Opens a program wherever it is: a .weft file, its text, a Python file, a decorated function."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.diagnostics import WeftError, WeftNameError, WeftSyntaxError, WeftTypeError, reason
from ..ir.source import Source
from . import ast
from .python.embedded import ProgramFunction
from .text.parser import parse

Tools = Mapping[str, Callable[..., Any]]


class NoSuchProgram(WeftError):
    """A program file that cannot be read."""

    kind = "file error"
    template = "{path}: {problem}"
    hint = "give a .weft file, or a Python file with a function under @weft.program"


class NoSuchTools(NoSuchProgram):
    """A file of tools that is not there, or no Python."""

    hint = "tools are the functions of a Python file (.py), such as NAME_tools.py for NAME.weft"


class NoProgramInFile(WeftSyntaxError):
    """A Python file in which nothing is decorated as a program."""

    template = "{path} has no function under @weft.program"


class NoPrograms(WeftSyntaxError):
    """A file that declares no program."""

    template = "{file} has no program to run"
    hint = "a program begins so: program NAME(parameters) -> TYPE:"


class NoSuchProgramName(WeftNameError):
    """A program name that the file does not have."""

    template = "the file has no program {name!r}"
    hint = "its programs are: {names}"


class BrokenPythonFile(WeftError):
    """A Python file (of programs or of tools) that fails while it is imported."""

    kind = "file error"
    template = "importing {path} failed: {problem}"


@dataclass(frozen=True)
class OpenProgram:
    """A parsed program with its source and the Python functions of its tools."""

    source: Source
    file: ast.File
    tools: dict[str, Callable[..., Any]] = field(default_factory=dict)


class NoProgram(WeftTypeError):
    """Something that is asked to be compiled and is no program."""

    template = "{kind} is no program: neither a path, a text nor a function under @weft.program"
    hint = "write @weft.program above a function, or give the path of a .weft file"


class NotTools(WeftTypeError):
    """Tools that are no functions by name."""

    template = "tools: {problem}"
    hint = 'give a dict of functions by the names that the program calls: tools={{"look": look}}'


def open_program(program: Any, tools: Tools | None = None, name: str | None = None) -> OpenProgram:
    """Return the program of a path, a text of several lines, or a ProgramFunction.

    An empty text is one without a program, not the path of the folder one stands in.

    Tools of `x.weft` come from `tools`, then from `x_tools.py` beside it. Raises WeftError.
    """
    given = _given(tools)
    if isinstance(program, ProgramFunction):
        return OpenProgram(program.source, program.file, {**program.tools, **given})
    if isinstance(program, str) and ("\n" in program or not program.strip()):
        source = Source("<program>", program)
        return OpenProgram(source, parse(source), given)
    if not isinstance(program, str | PathLike):
        raise NoProgram(kind=type(program).__name__)
    path = Path(program)
    if path.suffix == ".py":
        function = _program_of(_import(path), path, name)
        return OpenProgram(function.source, function.file, {**function.tools, **given})
    source = read_program_file(path)
    file = parse(source)
    wanted = {tool.name for tool in file.tools} - set(given)
    beside = tools_beside(path) if wanted else {}
    return OpenProgram(source, file, {**{n: beside[n] for n in wanted & set(beside)}, **given})


def _given(tools: Any) -> dict[str, Callable[..., Any]]:
    """Return the tools that a caller gives; raises NotTools."""
    if tools is None:
        return {}
    if not isinstance(tools, Mapping):
        raise NotTools(problem=f"{type(tools).__name__} is no dict")
    for name, function in tools.items():
        if not callable(function):
            raise NotTools(problem=f"{name!r} is {type(function).__name__}, no function")
    return dict(tools)


def tools_of(path: str | Path) -> dict[str, Callable[..., Any]]:
    """Return the public functions of a Python file, by name.

    Raises NoSuchTools and BrokenPythonFile.
    """
    module = _import(Path(path), NoSuchTools)
    return {
        key: value
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and not isinstance(value, type)
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NoSuchProgram(path=path, problem="there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NoSuchProgram(path=path, problem=reason(error)) from None


def read_program_file(path: Path) -> Source:
    """Return the text of a .weft file; raises NoSuchProgram."""
    return Source(str(path), _read(path))


def tools_beside(path: Path) -> dict[str, Callable[..., Any]]:
    """Return the functions of `NAME_tools.py` beside `NAME.weft`, none where it is not there."""
    beside = path.with_name(f"{path.stem}_tools.py")
    return tools_of(beside) if beside.exists() else {}


def programs_in(path: Path) -> list[ProgramFunction]:
    """Return the programs of a Python file; raises NoProgramInFile where there are none."""
    return _programs_of(_import(path), path)


def _programs_of(module: ModuleType, path: Path) -> list[ProgramFunction]:
    found = [value for value in vars(module).values() if isinstance(value, ProgramFunction)]
    if not found:
        raise NoProgramInFile(path=path)
    return found


def _program_of(module: ModuleType, path: Path, name: str | None) -> ProgramFunction:
    found = _programs_of(module, path)
    chosen = [function for function in found if name is None or function.name == name]
    if not chosen:
        raise NoSuchProgramName(name=name, names=", ".join(each.name for each in found))
    return chosen[-1]


def _import(path: Path, missing: type[NoSuchProgram] = NoSuchProgram) -> ModuleType:
    """Import a Python file under a name of its own, so that its functions keep their source."""
    label = f"weft_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(label, path)
    if not path.exists():
        raise missing(path=path, problem="there is no such file")
    if spec is None or spec.loader is None:
        raise missing(path=path, problem="it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    try:
        spec.loader.exec_module(module)
    except WeftError:
        raise
    except (Exception, SystemExit) as error:  # a script may end the process as it is imported
        problem = f"{type(error).__name__}: {error}"
        raise BrokenPythonFile(path=path, problem=problem) from error
    return module
