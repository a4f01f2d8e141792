"""Attention calibrations as JSON files: weft's own layout, and Double Sparsity's published one.

Weft's layout is an object with `format`, the shape, `rope_layout`, `provenance`, and `layers`: a
list a layer of one object a key/value head with `order`, `mean`, `deviation`, `peak`. The published
layout (arXiv 2408.07092, config/offline_calibration.py) has the keys
`model.layers.{i}.self_attn.{q,k,qk}_proj`, each a list a head of the channels by importance, where
q and qk have one list a *query* head.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..diagnostics import reason
from ..model import ModelConfig
from ..numbers import is_int
from ..whole_file import write_whole
from .calibration import (
    ROPE_LAYOUT,
    ROPE_LAYOUTS,
    AttentionCalibration,
    BadCalibration,
    HeadChannels,
    NotCalibrated,
    Provenance,
)

FORMAT = "weft attention calibration 1"
FILE_NAME = "attention_calibration.json"
"""The name beside a checkpoint's config.json."""
_PUBLISHED = re.compile(r"model\.layers\.(\d+)\.self_attn\.(q|k|qk)_proj")


def save_calibration(calibration: AttentionCalibration, file: str | Path) -> None:
    """Write a calibration, whole or not at all; raises BadCalibration if it cannot be written."""
    body = {
        "format": FORMAT, "heads": calibration.heads, "kv_heads": calibration.kv_heads,
        "head_dim": calibration.head_dim, "rope_layout": calibration.rope_layout,
        "provenance": asdict(calibration.provenance),
        "layers": [[_head_to_json(head) for head in layer] for layer in calibration.layers],
    }  # fmt: skip
    try:
        write_whole(file, json.dumps(body, separators=(",", ":")) + "\n")
    except OSError as error:
        problem, hint = f"cannot be written: {reason(error)}", "give another place with --out FILE"
        raise BadCalibration(file=str(file), problem=problem, hint=hint) from None


def load_calibration(
    file: str | Path, config: ModelConfig, identity: str, model: str, statistic: str = "qk"
) -> AttentionCalibration:
    """Return the calibration of a file, checked against a model of this name and identity.

    `statistic` picks among the three of the published layout. Raises NotCalibrated, BadCalibration,
    OtherModel and OtherRopeLayout.
    """
    raw = _read(Path(file), model)
    if any(_PUBLISHED.fullmatch(key) for key in raw):
        found = read_published(raw, config.heads, config.kv_heads, statistic, str(file))
    else:
        found = _read_own(raw, str(file))
    found.check(config, identity, model)
    return found


def _read(path: Path, model: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotCalibrated(file=str(path), model=model) from None
    except (OSError, ValueError, RecursionError) as error:
        problem = f"it is no JSON, or cut short: {error}"
        raise BadCalibration(file=str(path), problem=problem) from None
    if not isinstance(found, dict):
        raise BadCalibration(file=str(path), problem="a JSON object was expected")
    return found


def _head_to_json(head: HeadChannels) -> dict[str, Any]:
    ranges = {name: [float(f"{value:.5g}") for value in getattr(head, name)]
              for name in ("mean", "deviation", "peak")}  # fmt: skip
    return {"order": list(head.order), **ranges}


def _read_own(raw: dict[str, Any], file: str) -> AttentionCalibration:
    if raw.get("format") != FORMAT:
        problem = f"its format is {raw.get('format')!r}, not {FORMAT!r}"
        raise BadCalibration(file=file, problem=problem)
    if raw.get("rope_layout") not in ROPE_LAYOUTS:
        problem = f"rope_layout is one of {', '.join(ROPE_LAYOUTS)}, not {raw.get('rope_layout')!r}"
        raise BadCalibration(file=file, problem=problem)
    shape = {name: raw.get(name) for name in ("heads", "kv_heads", "head_dim")}
    for name, value in shape.items():
        if not is_int(value) or value < 1:
            raise BadCalibration(file=file, problem=f"{name} is {value!r}, not a size")
    try:
        provenance = _provenance_of_json(raw["provenance"])
        layers = tuple(tuple(_head_of_json(head) for head in layer) for layer in raw["layers"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadCalibration(file=file, problem=f"a part is missing or wrong: {error}") from None
    found = AttentionCalibration(
        layers=layers, provenance=provenance, rope_layout=raw["rope_layout"], file=file,
        **shape,  # type: ignore[arg-type]
    )  # fmt: skip
    return _checked(found)


def _provenance_of_json(raw: dict[str, Any]) -> Provenance:
    found = Provenance(**raw)
    for item in fields(found):
        if not isinstance(getattr(found, item.name), type(item.default)):
            raise ValueError(f"{item.name} of the provenance is {getattr(found, item.name)!r}")
    return found


def _head_of_json(raw: dict[str, Any]) -> HeadChannels:
    order = tuple(raw["order"])
    if not all(type(channel) is int for channel in order):
        raise ValueError("a channel of an order is no whole number")
    ranges = [tuple(float(value) for value in raw[name]) for name in ("mean", "deviation", "peak")]
    if not all(math.isfinite(value) for values in ranges for value in values):
        raise ValueError("a range is not finite")
    if any(value < 0 for values in ranges[1:] for value in values):
        raise ValueError("a deviation or a peak is negative")
    return HeadChannels(order, *ranges)


def _checked(found: AttentionCalibration) -> AttentionCalibration:
    """Return the calibration; raises BadCalibration where a head is missing or impossible."""
    for at, layer in enumerate(found.layers):
        if len(layer) != found.kv_heads:
            problem = f"layer {at} has {len(layer)} heads of {found.kv_heads}"
            raise BadCalibration(file=found.file, problem=problem)
        for number, head in enumerate(layer):
            if problem := head.problem(found.head_dim):
                problem = f"layer {at}, head {number}: {problem}"
                raise BadCalibration(file=found.file, problem=problem)
    return found


def read_published(
    raw: dict[str, Any], heads: int, kv_heads: int, statistic: str = "qk",
    file: str = "the file", rope_layout: str = ROPE_LAYOUT,
) -> AttentionCalibration:  # fmt: skip
    """Return the calibration of a published file for a model with these head counts.

    The lists of a group of query heads become one order of their key/value head: by the sum of a
    channel's places in them (Borda count), ties to the lower channel. `rope_layout` is what the
    file's channels are numbered for (published files: Hugging Face's halves).
    """
    rows: dict[int, list[list[int]]] = {}
    for key, value in raw.items():
        match = _PUBLISHED.fullmatch(key)
        if match and match[2] == statistic:
            rows[int(match[1])] = _lists(value, key, file)
    missing = sorted(set(range(max(rows, default=0) + 1)) - rows.keys())
    if missing:
        problem = f"layer {missing[0]} has no {statistic}_proj"
        raise BadCalibration(file=file, problem=problem)
    layers = tuple(_by_kv_head(rows[at], heads, kv_heads, at, file) for at in sorted(rows))
    width = len(layers[0][0].order)
    found = AttentionCalibration(
        heads, kv_heads, width, layers, Provenance(statistic=statistic), rope_layout, file
    )
    return _checked(found)


def _lists(value: Any, key: str, file: str) -> list[list[int]]:
    right = isinstance(value, list) and all(
        isinstance(row, list) and all(type(c) is int for c in row) for row in value
    )
    widths = {len(row) for row in value} if right else set()
    if len(widths) != 1 or any(sorted(row) != list(range(len(row))) for row in value):
        raise BadCalibration(file=file, problem=f"{key} is no list of channel orders of one width")
    return value


def _by_kv_head(
    rows: list[list[int]], heads: int, kv_heads: int, layer: int, file: str
) -> tuple[HeadChannels, ...]:
    if len(rows) not in (heads, kv_heads):
        problem = f"layer {layer} has {len(rows)} heads; the model has {heads} and {kv_heads}"
        raise BadCalibration(file=file, problem=problem,
                             hint="it is of another model: take the file of this one")  # fmt: skip
    group = len(rows) // kv_heads
    parts = [rows[at : at + group] for at in range(0, len(rows), group)]
    return tuple(HeadChannels(_borda(part)) for part in parts)


def _borda(orders: list[list[int]]) -> tuple[int, ...]:
    places = [0] * len(orders[0])
    for order in orders:
        for place, channel in enumerate(order):
            places[channel] += place
    return tuple(sorted(range(len(places)), key=lambda channel: (places[channel], channel)))
