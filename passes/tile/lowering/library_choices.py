"""What of a lowered model a library computes and why, and what our kernels do where one could."""

from __future__ import annotations

from collections import Counter

from ....ir.core import Operation, walk

OURS = (
    "it reads pages where they are and a shared prefix once; the vendor's is faster only over "
    "contiguous keys of prompts of one length and without a prefix, and those would be copied "
    "together for each step first; over pages it takes longer than ours"
)
"""Why attention does not call a library on a GPU."""


def library_choices(functions: tuple[Operation, ...], gpu_prefill: bool) -> list[str]:
    """Return one sentence a kind of operation; `gpu_prefill`: steps of many rows on a GPU."""
    called = Counter(
        (op["of"].removeprefix("graph."), op["why"])
        for op in walk(functions) if op.name == "graph.library"
    )  # fmt: skip
    found = [f"{count} {of} call the library: {why}" for (of, why), count in called.items()]
    if gpu_prefill:
        found.append(f"attention over many rows is our kernel's: {OURS}")
    return found
