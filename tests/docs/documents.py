"""Documents as blocks of code, the commands that they name, and whether these are there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer
import weft
from weft.cli.app import app

ROOT = Path(weft.__file__).resolve().parent
LANGUAGES = {"weft", "python", "console", "sh", "ir", "text", "json"}

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ ]*$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:weft|make|python -m|python) [^`]+)`")
_FREE = {"pip", "export", "git", "cd", "python3", ".", "source", "jupyter", "ls"}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.\.")


@dataclass(frozen=True)
class Block:
    """A fenced block: the document, its line, its language, a file name if it has one, its text."""

    document: str
    line: int
    language: str
    file: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.document}:{self.line}"


def documents() -> list[Path]:
    """Return all documents that a user reads."""
    folders = [ROOT / "docs", ROOT / "docs" / "experiments"]
    first = [ROOT / "README.md", ROOT / "bench" / "README.md", ROOT / "notebooks" / "README.md"]
    return [*first, *(
        path for folder in folders for path in sorted(folder.glob("*.md"))
    )]  # fmt: skip


def blocks(path: Path) -> list[Block]:
    """Return a document's fenced blocks, in order."""
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    found = []
    for match in _FENCE.finditer(text):
        language, _, file = match[1].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name, line, language or _guess(match[2]), file.strip(), match[2]))
    return found


def commands(path: Path) -> list[str]:
    """Return the commands that a document names: in `sh` blocks, indented, or in its sentences."""
    text = path.read_text(encoding="utf-8")
    fenced = [line for block in blocks(path) if block.language == "sh"
              for line in block.text.splitlines()]  # fmt: skip
    outside = _FENCE.sub("", text)
    indented = re.findall(r"^    ((?:weft|make|python) .*)$", outside, re.MULTILINE)
    inline = [match.replace("\\|", "|") for match in _INLINE.findall(outside)]
    lines = (line.partition("  #")[0].strip() for line in [*fenced, *indented, *inline])
    return [part.strip() for line in lines if line for part in line.split("&&")]


def broken_links(path: Path) -> list[str]:
    """Return the links of a document to files and headings that are not there."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
    near = [target for target in targets if not target.startswith(("http:", "https:"))]
    return [target for target in near if not _leads_somewhere(target, path)]


def _leads_somewhere(target: str, path: Path) -> bool:
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    if not anchor or not file.exists():
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", file.read_text(encoding="utf-8")), re.M)
    return anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}


def missing_files(path: Path) -> list[str]:
    """Return the files of the repository that a document names and that are not there."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[a-z]\w*\.(?:py|toml))`", text)
    rooms = {entry.name for entry in ROOT.iterdir()}
    return [name for name in named if not _is_there(name, rooms, path.parent)]


ROOMS = "frontend|ir|passes|codegen|runtime|cost_model|compiler|evaluation|tuning"


def missing_modules(text: str) -> list[str]:
    """Return the packages and modules that a source names, as paths or with dots, and that are not
    there."""
    paths = re.findall(rf"(?<![\w./-])((?:{ROOMS})/[\w/]+)(?!\w)", text)
    dotted = re.findall(rf"`((?:{ROOMS})(?:\.\w+)+)`", text)
    return [name for name in [*paths, *dotted] if not _is_module(re.split("[/.]", name.strip("/")))]


def _is_module(parts: list[str]) -> bool:
    """Whether some names lead to a package, or to a module and what it has."""
    modules = (
        ROOT.joinpath(*parts[:count]).with_suffix(".py") for count in range(2, len(parts) + 1)
    )
    return ROOT.joinpath(*parts).is_dir() or any(module.exists() for module in modules)


def _is_there(name: str, rooms: set[str], near: Path) -> bool:
    """Whether a file stands where its path says, or, named alone, at the root or in examples."""
    first, slash, _ = name.partition("/")
    if slash and first not in rooms:
        return True  # no path of the repository
    return any((at / name).exists() for at in (ROOT, near, ROOT / "examples"))


def wrong_with(command: str) -> str | None:
    """Return why nobody can run a command, or None: its names and options are there."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        words = command.split()
    if not words:
        return None
    head, rest = words[0], words[1:]
    if head == "weft":
        return _weft(rest)
    if head == "make":
        return _make(rest)
    if head in {"python", "python3"} and rest[:1] == ["-m"]:
        return _module(rest[1], rest[2:])
    if head == "python" and rest:
        return None if (ROOT / rest[0]).exists() else f"there is no {rest[0]}"
    return None if head in _FREE else f"who knows the command {head!r}?"


def matches(expected: str, given: str) -> bool:
    """Whether an output is as a document says: `...` stands for any text, alone for any lines."""
    pieces = [re.escape(part) for part in expected.strip().split("...")]
    pattern = "(?s:.*?)".join(pieces)
    tidy = "\n".join(line.rstrip() for line in given.strip().splitlines())
    return re.fullmatch(pattern, tidy) is not None


def _guess(text: str) -> str:
    return "ir" if re.match(r"(tile|graph|plan|program)\.\w+ ", text) else ""


@cache
def commands_of_weft() -> dict[str, Any]:
    """Return weft's commands by name, as typer makes them: once, which takes .15 s."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def _weft(words: list[str]) -> str | None:
    subcommands = commands_of_weft()
    if not words or words[0] in {"--help", "-h"} or _PLACEHOLDER.fullmatch(words[0]):
        return None
    if words[0] not in subcommands:
        return f"weft has no command {words[0]!r}"
    known = {name for parameter in subcommands[words[0]].params
             for name in (*parameter.opts, *parameter.secondary_opts)}  # fmt: skip
    for word in words[1:]:
        option = word.split("=")[0]
        if option.startswith("-") and option != "-" and option not in known | {"--help", "-h"}:
            return f"weft {words[0]} has no option {option}"
        if word.startswith(("examples/", "docs/")) and not (ROOT / word).exists():
            return f"there is no {word}"
    return None


def _make(words: list[str]) -> str | None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [word for word in words if "=" not in word and not word.startswith("-")]
    missing = [word for word in named if word not in targets]
    return f"the Makefile has no {missing[0]}" if missing else None


def _module(name: str, options: list[str]) -> str | None:
    if not name.startswith(("bench", "weft")):
        return None
    below = name.removeprefix("weft.").replace(".", "/") if name != "weft" else "__main__"
    path = ROOT / f"{below}.py"
    if not path.exists():
        return f"there is no module {name}"
    text = "".join(file.read_text() for file in sorted(path.parent.glob("*.py")))
    for option in (word for word in options if word.startswith("--")):
        if f'"{option.split("=")[0]}"' not in text:
            return f"{name} has no option {option}"
    return None
