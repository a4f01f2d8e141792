"""What else a user may ask of an offloaded model, each measured once beside its prediction.

Skewed routing, prompts read beside decode, pages of twelve bits (exact) and narrower ones (lossy),
keys on the GPU, longer prompts, all 32 layers. A row gives tokens/s, how far the prediction is off,
and the share of the bound that the model states for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .bench import Bench
from .runs import FEW_TOKENS, Setting, lean

WHOLE = "random:mixtral-8x7b"
"""All 32 layers: 84 GiB of experts."""


def variants(bench: Bench) -> dict[str, Any]:
    """Measure each variant that is wanted while there is time; those that failed say why."""
    rows: dict[str, Any] = {}
    for name, setting in variant_settings(bench).items():
        if bench.wanted and name not in bench.wanted:
            continue
        if bench.late:
            bench.why[name] = "there was no time left"
            continue
        try:
            rows[name] = _row(bench, setting)
        except Exception as error:
            if bench.tiny:
                raise
            bench.why[name] = repr(error)
    return {"variants": rows}


def variant_settings(bench: Bench) -> dict[str, Setting]:
    """Return the variants by name: those that share the base's pages in host memory first."""
    base = lean(bench.base)
    zipf = replace(base, routing="zipf:1.0")
    int8 = replace(base, page_format="int8")
    exact = replace(base, page_format="bf12")
    few = replace(base, batch=bench.n320, schedule="s4", kv_gpu=1.0)
    beside = replace(base, arriving=max(base.batch // base.new, 1))  # as many as end
    if bench.tiny:
        return {"zipf routing": zipf, "prompts beside decode": beside, "keys on the GPU": few,
                "int8 pages": int8}  # fmt: skip
    return {
        "zipf routing": zipf,
        "prompts beside decode": beside,
        "keys on the GPU": replace(few, max_tokens=FEW_TOKENS),
        "bf12 pages": exact,
        "512+64": replace(base, prompt=512, longest=512, new=64),
        "int8 pages": int8,
        "int4 pages": replace(base, page_format="int4"),
        "32 layers": replace(base, model=WHOLE),
    }


def _row(bench: Bench, setting: Setting) -> dict[str, Any]:
    found = bench.measured(setting)
    prediction = bench.predicted(found)
    bound, least = prediction.bound, prediction.roofs[prediction.bound]
    rate = (setting.batch - setting.arriving) / prediction.step.expected
    return {
        "setting": setting.name,
        "model": setting.model,
        "tokens_per_s": found.decode_rate,
        "predicted_tokens_per_s": rate,
        "error": rate / found.decode_rate - 1,
        "bound": bound,
        "fraction_of_bound": least / found.step,
        "host_bytes": found.host_bytes,
    }
