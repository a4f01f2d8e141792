"""Hardware descriptions as JSON files: reading with precise errors, writing, the shipped ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ir.diagnostics import WeftError, reason
from ..ir.numbers import is_number
from .hardware import Hardware, Level, Link, Memory, Rate
from .json_text import value_of

SHIPPED = Path(__file__).parent / "hardware"
FORMAT = 1


class HardwareFileError(WeftError):
    """A hardware file that is missing, is no JSON, or says what no machine can do."""

    kind = "hardware error"
    template = "{path}: {where}: {problem}"
    hint = "`weft calibrate` writes such a file; cost_model/hardware/ has examples"


class NoHardwareFile(HardwareFileError):
    """No description of that name, and no file there that can be read."""

    template = "{path!r} is no shipped hardware, and no file that can be read: {problem}"
    hint = "the shipped ones are {known}; `weft calibrate` writes a file"


def load(name_or_path: str | Path) -> Hardware:
    """Return a description: a shipped one by name (`cpu-generic`, `h200`), any other by path."""
    shipped = SHIPPED / f"{name_or_path}.json"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = reason(error)
        raise NoHardwareFile(path=str(name_or_path), problem=problem, known=known_names()) from None
    return parse(text, str(path))


def known_names() -> str:
    """Return the names of the shipped descriptions, for people."""
    return ", ".join(sorted(file.stem for file in SHIPPED.glob("*.json")))


def hardware_path() -> Path:
    """Return where this machine's measured hardware file is kept."""
    from platformdirs import user_data_path

    return user_data_path("weft") / "cpu.json"


def measured_or_shipped() -> Hardware:
    """Return this machine's measured figures where they describe a GPU, else the shipped H200's."""
    path = hardware_path()
    if path.exists():
        found = load(path)
        if any(level.kind == "gpu" for level in found.levels):
            return found
    return load("h200")


def parse(text: str, path: str = "<hardware>") -> Hardware:
    """Return the description that a JSON text gives; raises HardwareFileError."""

    def refused(where: str, problem: str) -> HardwareFileError:
        return HardwareFileError(path=path, where=where, problem=problem)

    return _hardware(_Reader(path, "top", value_of(text, refused)))


def save(hardware: Hardware, path: str | Path) -> None:
    """Write a description as JSON; `load` gives it back equal."""
    Path(path).write_text(dumps(hardware), encoding="utf-8")


def dumps(hardware: Hardware) -> str:
    """Return a description as JSON text, one level, memory or rate a line."""
    text = json.dumps(
        {
            "format": FORMAT,
            "name": hardware.name,
            "provenance": dict(hardware.provenance),
            "levels": [_level_json(level) for level in hardware.levels],
            "links": [_link_json(link) for link in hardware.links],
        },
        indent=2,
    )
    return text + "\n"


class _Reader:
    """A JSON value and where it stands, so that every error can name its place."""

    def __init__(self, path: str, where: str, value: Any) -> None:
        self.path, self.where, self.value = path, where, value

    def fail(self, problem: str) -> HardwareFileError:
        return HardwareFileError(path=self.path, where=self.where, problem=problem)

    def table(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.fail(f"expected a table, found {self.value!r:.60}")
        return self.value

    def get(self, key: str) -> _Reader:
        table = self.table()
        if key not in table:
            raise self.fail(f"{key!r} is missing")
        return _Reader(self.path, f"{self.where}.{key}", table[key])

    def optional(self, key: str, default: Any) -> _Reader:
        return self.get(key) if key in self.table() else _Reader(self.path, self.where, default)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail(f"expected text, found {self.value!r:.60}")
        return self.value

    def items(self) -> list[_Reader]:
        if not isinstance(self.value, list):
            raise self.fail(f"expected a list, found {self.value!r:.60}")
        places = enumerate(self.value)
        return [_Reader(self.path, f"{self.where}[{index}]", item) for index, item in places]

    def positive(self) -> float:
        value = self.value
        number = is_number(value)
        if not number or not 0 < value <= sys.float_info.max:
            raise self.fail(f"expected a positive number, found {value!r:.60}")
        return float(value)

    def count(self) -> int:
        value = self.positive()
        if not value.is_integer():
            raise self.fail(f"expected a whole number, found {value:g}")
        return int(value)

    def rate(self) -> Rate:
        """A number, or {min, median, max} in that order of size."""
        if not isinstance(self.value, dict):
            return Rate.exact(self.positive())
        low, middle, high = (self.get(key).positive() for key in ("min", "median", "max"))
        if not low <= middle <= high:
            raise self.fail(f"min <= median <= max does not hold: {low:g}, {middle:g}, {high:g}")
        return Rate(low, middle, high)

    def maybe_rate(self, key: str) -> Rate | None:
        """A rate that may be left out."""
        return self.get(key).rate() if key in self.table() else None

    def by_threads(self) -> dict[int, Rate]:
        """Rates whose keys are positive whole numbers."""
        for key in self.table():
            if re.fullmatch("0*[1-9][0-9]{0,5}", key) is None:
                raise self.fail(f"expected a number of threads, found {key!r:.60}")
        return {int(key): rate for key, rate in self.rates().items()}

    def rates(self) -> dict[str, Rate]:
        return {key: self.get(key).rate() for key in self.table()}


def _hardware(top: _Reader) -> Hardware:
    if top.get("format").value != FORMAT:
        raise top.get("format").fail(f"this weft reads format {FORMAT} only")
    levels = tuple(map(_level, top.get("levels").items()))
    if not levels:
        raise top.get("levels").fail("at least one level is needed")
    names = [level.name for level in levels]
    if len(set(names)) < len(names):
        raise top.get("levels").fail(f"two levels have one name: {', '.join(names)}")
    links = top.optional("links", []).items()
    made = tuple(_link(link, names) for link in links)
    provenance = top.optional("provenance", {}).table()
    return Hardware(top.get("name").text(), levels, made, provenance)


def _level(reader: _Reader) -> Level:
    memories = tuple(map(_memory, reader.get("memories").items()))
    if not memories:
        raise reader.get("memories").fail("at least one memory is needed")
    if any(a.capacity > b.capacity for a, b in zip(memories, memories[1:], strict=False)):
        raise reader.get("memories").fail("capacities must grow: fastest memory first")
    by_threads = reader.optional("vector_by_threads", {})
    return Level(
        reader.get("name").text(),
        reader.get("kind").text(),
        memories,
        reader.get("matmul").rates(),
        reader.get("vector").rates(),
        reader.get("launch").rates(),
        reader.optional("threads", 1).count(),
        {what: by_threads.get(what).by_threads() for what in by_threads.table()},
    )


def _memory(reader: _Reader) -> Memory:
    read = reader.get("read").rate()
    copy = reader.optional("copy", reader.get("read").value).rate()
    capacity, shared = reader.get("capacity").positive(), reader.maybe_rate("shared")
    threads = reader.optional("by_threads", {}).by_threads()
    return Memory(reader.get("name").text(), capacity, read, copy, shared, threads)


def _link(reader: _Reader, names: list[str]) -> Link:
    ends = [reader.get(key) for key in ("source", "target")]
    for end in ends:
        if end.text() not in names:
            raise end.fail(f"{end.text()!r} is no level; levels: {', '.join(names)}")
    optional = [reader.maybe_rate(key) for key in _LINK_RATES]
    return Link(ends[0].text(), ends[1].text(), reader.get("bandwidth").rate(), *optional)


def _rate_json(rate: Rate) -> Any:
    if rate.min == rate.max:
        return rate.median
    return {"min": rate.min, "median": rate.median, "max": rate.max}


def _map_json(rates: Mapping[str, Rate]) -> dict[str, Any]:
    return {key: _rate_json(rate) for key, rate in rates.items()}


def _memory_json(memory: Memory) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": memory.name, "capacity": memory.capacity, "read": _rate_json(memory.read),
        "copy": _rate_json(memory.copy),
    }  # fmt: skip
    if memory.shared is not None:
        entry["shared"] = _rate_json(memory.shared)
    if memory.by_threads:
        entry["by_threads"] = _threads_json(memory.by_threads)
    return entry


def _threads_json(rates: Mapping[int, Rate]) -> dict[str, Any]:
    return {str(count): _rate_json(rate) for count, rate in rates.items()}


def _level_json(level: Level) -> dict[str, Any]:
    entry = {
        "name": level.name, "kind": level.kind, "threads": level.threads,
        "memories": [_memory_json(memory) for memory in level.memories],
        "matmul": _map_json(level.matmul), "vector": _map_json(level.vector),
        "launch": _map_json(level.launch),
    }  # fmt: skip
    by_threads = {what: _threads_json(rates) for what, rates in level.vector_by_threads.items()}
    return entry | ({"vector_by_threads": by_threads} if by_threads else {})


_LINK_RATES = ("pageable", "together", "latency")


def _link_json(link: Link) -> dict[str, Any]:
    entry = {
        "source": link.source, "target": link.target, "bandwidth": _rate_json(link.bandwidth)
    }  # fmt: skip
    for key in _LINK_RATES:
        rate = getattr(link, key)
        if rate is not None:
            entry[key] = _rate_json(rate)
    return entry
