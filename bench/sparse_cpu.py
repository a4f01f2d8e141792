"""Sparse decode attention of one layer on this CPU, beside our dense kernel: printed, not recorded.

    python -m bench.sparse_cpu [--context 16384 65536] [--threads 1] [--tail]

The 8 B shape (32/8 heads of 128, f32 keys), one sequence, 1/16 of the tokens by labels of 1/16 of a
bf16 key. Times are medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from weft.codegen.build import compile_kernels
from weft.codegen.threads import configure_threads
from weft.ir.schedule import Schedule
from weft.ir.sparse.policy import SparsePolicy
from weft.passes.tile.attention.paged import Attention, decode
from weft.passes.tile.selection.labels import Labels, Scores, label_scores
from weft.passes.tile.selection.selection import Selection, select_keys
from weft.passes.tile.sparse.gathered import Gathered, gathered_decode

from bench.measure import interleave, seconds

SHAPE = Attention(32, 8, 128)
ROUNDS = 7


def launches(context: int, policy: SparsePolicy) -> dict[str, Callable[[], Any]]:
    """Return the launches of dense decode, and of each sparse kernel, over random pages."""
    s, page = SHAPE, SHAPE.page
    labels = Labels(s.kv_heads, s.head_dim, page, policy.label_channels(s.head_dim), policy.labels)
    scored = Scores(labels, s.heads, tail=policy.tail != "none")
    score = label_scores(scored)
    take = select_keys(Selection(s.kv_heads, page))
    read = gathered_decode(Gathered(s.heads, s.kv_heads, s.head_dim,
                                    tail=scored if scored.tail else None))  # fmt: skip
    built = compile_kernels([(k, Schedule()) for k in (decode(s), score, take, read)])
    dense, score, take, read = (kernel.launch for kernel in built.values())
    pages = -(-context // page)
    table = torch.randperm(pages, dtype=torch.int32)[None]
    k, v = (torch.randn(pages, s.kv_heads, page, s.head_dim) for _ in "kv")
    codes = torch.randint(0, 256, (pages, s.kv_heads, labels.rows, page), dtype=torch.uint8)
    mean, level = (torch.ones(s.kv_heads, labels.channels) for _ in "ml")
    q = torch.randn(1, s.heads * s.head_dim)
    lengths, budgets = (torch.tensor([n], dtype=torch.int32)
                        for n in (context, policy.budget(context)))  # fmt: skip
    places = pages * page  # kernels write whole pages
    scores = torch.zeros(1, s.kv_heads, places)
    chosen = torch.zeros(1, s.kv_heads, places, dtype=torch.int32)
    counts = torch.zeros(1, s.kv_heads, dtype=torch.int32)
    out = torch.empty_like(q)
    extents = (1, pages, pages, places)
    mass = [torch.zeros(1, s.heads, 1) for _ in "ms"] if scored.tail else []
    tables = [torch.ones(s.kv_heads, s.head_dim) for _ in "cs"]
    sums = torch.zeros(pages, s.kv_heads, s.head_dim)
    tail = [*mass, mean, level, *tables, sums] if mass else []
    return {
        "dense": lambda: dense(1, pages, pages, q, table, lengths, k, v, out),
        "scores": lambda: score(
            *extents, q, table, lengths, budgets, codes, mean, level, scores, *mass
        ),
        "select": lambda: take(1, places, scores, lengths, budgets, chosen, counts),
        "gathered": lambda: read(*extents, q, table, lengths, chosen, counts, k, v, out, *tail),
    }


def main() -> None:
    """Print a line a context."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--context", nargs="+", type=int, default=[16384, 65536])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tail", action="store_true", help="with tail=mean")
    options = parser.parse_args()
    configure_threads(options.threads, spin=0)
    torch.set_num_threads(options.threads)
    policy = SparsePolicy(ratio=1 / 16, tail="mean" if options.tail else "none")
    for context in options.context:
        calls = launches(context, policy)
        for call in calls.values():
            call()
        times = interleave({n: lambda c=c: seconds(c) for n, c in calls.items()}, ROUNDS)
        found = {name: 1e3 * statistics.median(values) for name, values in times.items()}
        sparse = sum(value for name, value in found.items() if name != "dense")
        parts = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        assert np.isfinite(sparse)
        print(f"{context}: {parts} ms; dense over sparse {found['dense'] / sparse:.1f}", flush=True)


if __name__ == "__main__":
    main()
