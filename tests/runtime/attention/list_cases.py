"""Decode steps for attention lists, and what their queries see."""

from __future__ import annotations

import torch
from weft.runtime.attention.grown_lists import PAGES
from weft.runtime.execution.step import StepInput


def decode_step(lengths, table):
    ints = [torch.tensor(values, dtype=torch.int32) for values in (
        [0] * len(lengths), [n - 1 for n in lengths], [0] * len(lengths),
        list(range(len(lengths) + 1)), lengths,
    )]  # fmt: skip
    rows = torch.arange(len(lengths), dtype=torch.int32)
    return StepInput(*ints, torch.tensor(table, dtype=torch.int32), rows)


def seen_keys(lists, table_width):
    """The keys that each query sees by the lists: (page, offset) pairs, from every item."""
    arrays = {name.removeprefix("plan_"): array for name, array in lists.arrays.items()}
    keys = {}
    for item, first in enumerate(arrays["item_row"].tolist()):
        low, high = int(arrays["item_low"][item]), int(arrays["item_high"][item])
        for row in range(first, first + int(arrays["item_rows"][item])):
            end = min(high, int(arrays["row_limit"][row]))
            entry = int(arrays["item_page"][item])
            pages = lists.arrays[PAGES]
            found = {(int(pages[entry + key // 16]), key % 16) for key in range(low, end)}
            keys.setdefault(int(arrays["row_query"][row]), []).extend(sorted(found))
    return keys
