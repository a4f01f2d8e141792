"""Figures that sentences of the documents quote, written anew from the records as tables are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quoted:
    """A figure in a sentence: the words around it, `{}` in its place, the record and its format."""

    words: str
    file: str
    figure: str
    form: str = ".2f"
    factor: float = 1.0

    def update(self, text: str, records: Mapping[str, Any]) -> str:
        """Return the text with the figure as the record has it; raises LookupError where the words
        do not stand in it exactly once."""
        before, _, behind = (r"\s+".join(map(re.escape, part.split(" ")))
                             for part in self.words.partition("{}"))  # fmt: skip
        value = self.factor * records[self.file]["figures"][self.figure]
        new, found = re.subn(
            f"({before})[0-9.]+({behind})", rf"\g<1>{value:{self.form}}\g<2>", text
        )
        if found != 1:
            raise LookupError(f"{found} times in the document: {self.words}")
        return new


def _percent(words: str, file: str, figure: str) -> Quoted:
    return Quoted(words, file, figure, ".0f", 100.0)


QUOTED: dict[str, tuple[Quoted, ...]] = {
    "docs/gpu.md": (
        Quoted("sequence takes {} ms", "gpu_programs", "decode_b1_ms"),
        _percent("{} % of what its bytes take", "gpu_programs", "decode_b1_fraction_of_roofline"),
        _percent("prompts multiplies at {} % of", "gpu_programs", "prefill_fraction_of_matmul"),
        Quoted("branches share this is {} times as fast", "gpu_kernels", "cascade_16k_x64_speedup",
               ".1f"),
        _percent("or more reaches {} % of a copy's", "gpu_kernels",
                 "decode_attention_fraction_of_copy_page64"),
        _percent("(with pages of 16, {} %)", "gpu_kernels",
                 "decode_attention_fraction_of_copy_page16"),
        Quoted("several calls run {} times as fast", "programs_gpu", "gpu_speedup_geomean"),
        Quoted("get at least {} times as many tokens", "programs_gpu", "gpu_constrained_vs_free"),
    ),
    "docs/offload.md": (
        Quoted("sequences of Mixtral, {} times the rate", "moe_offload", "cpu_experts_gain_n320"),
        Quoted("rate of all-resident in {}x less", "moe_offload", "host_memory_saving"),
    ),
    "docs/sparse_attention.md": (
        Quoted("It takes {} s for the slower", "sparse_attention", "calibration_tiny_s", ".0f"),
        Quoted("shipped model, and {} s for an 8 B", "sparse_attention", "calibration_8b_s", ".0f"),
        Quoted("a step is {} times as fast as streaming", "sparse_attention",
               "host_model_256k_speedup", ".0f"),
    ),
}  # fmt: skip
"""By document, below the repository's root."""


def quote(text: str, document: str, records: Mapping[str, Any]) -> str:
    """Return a document's text with every figure in `QUOTED` as the records have it."""
    for quoted in QUOTED[document]:
        text = quoted.update(text, records)
    return text
