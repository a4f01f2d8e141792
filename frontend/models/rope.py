"""Reads rotary settings of config.json: `rope_parameters`, or `rope_theta` with `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...ir.model import Rope

KINDS = ("default", "linear", "llama3", "yarn")


class RopeProblem(Exception):
    """What is wrong with the settings; the reader of the configuration says where they are."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def read_rope(raw: Mapping[str, Any], default_theta: float) -> Rope:
    """Return the settings of a config.json's content; raises RopeProblem."""
    settings = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = settings.get("rope_type", settings.get("type", "default"))
    theta = settings.get("rope_theta") or raw.get("rope_theta") or default_theta
    if kind not in KINDS:
        hint = f"supported are: {', '.join(KINDS)}"
        raise RopeProblem(f"the rope type {kind!r} is not supported", hint)
    partial = settings.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise RopeProblem(f"partial_rotary_factor {partial} is not supported, only 1")
    if kind == "default":
        return Rope(theta=float(theta))
    if kind == "linear":
        return Rope(theta=float(theta), kind=kind, factor=_need(settings, kind, "factor"))
    return (_llama3 if kind == "llama3" else _yarn)(raw, settings, float(theta))


def _need(settings: Mapping[str, Any], kind: str, name: str) -> float:
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RopeProblem(f"rope type {kind!r} needs the number {name!r}")
    return float(value)


def _llama3(raw: Mapping[str, Any], settings: Mapping[str, Any], theta: float) -> Rope:
    return Rope(
        theta=theta, kind="llama3", factor=_need(settings, "llama3", "factor"),
        original_context=int(_need(settings, "llama3", "original_max_position_embeddings")),
        low_frequency_factor=_need(settings, "llama3", "low_freq_factor"),
        high_frequency_factor=_need(settings, "llama3", "high_freq_factor"),
    )  # fmt: skip


def _yarn(raw: Mapping[str, Any], settings: Mapping[str, Any], theta: float) -> Rope:
    factor = _need(settings, "yarn", "factor")
    context = (settings.get("original_max_position_embeddings")
               or raw.get("original_max_position_embeddings")
               or raw.get("max_position_embeddings") or 0)  # fmt: skip
    return Rope(
        theta=theta, kind="yarn", factor=factor, original_context=int(context),
        beta_fast=float(settings.get("beta_fast") or 32),
        beta_slow=float(settings.get("beta_slow") or 1),
        attention_factor=_attention_factor(factor, settings),
        truncate=bool(settings.get("truncate", True)),
    )  # fmt: skip


def _attention_factor(factor: float, settings: Mapping[str, Any]) -> float:
    """YaRN's temperature: given, or 0.1 ln(factor) + 1, weighted as DeepSeek does if asked."""
    given = settings.get("attention_factor")
    if given is not None:
        return float(given)

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, over = settings.get("mscale"), settings.get("mscale_all_dim")
    return scale(mscale) / scale(over) if mscale and over else scale(1.0)
