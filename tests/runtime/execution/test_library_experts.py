"""Experts of pages on a CPU by the library: values, experts without rows or without a page."""

from __future__ import annotations

import pytest
import torch
from weft.runtime.execution.library import ROUTINES

EXPERTS, PAGES, N, K = 5, 3, 12, 16


@pytest.mark.parametrize("routine", ["moe_expert", "moe_expert_silu"])
@pytest.mark.parametrize("per_row", [1, 2])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_products_of_pages(rows: int, per_row: int, routine: str) -> None:
    draw = torch.Generator().manual_seed(rows)
    pairs = rows * per_row
    x = torch.randn(rows, K, generator=draw)
    w = torch.randn(PAGES, N, K, generator=draw).to(torch.bfloat16)
    chosen = torch.randint(0, EXPERTS, (pairs,), generator=draw)
    order = torch.argsort(chosen, stable=True).to(torch.int32)
    counts = torch.bincount(chosen, minlength=EXPERTS)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    places = torch.tensor([2, -1, 0, 1, 2], dtype=torch.int32)
    gated = routine == "moe_expert_silu"
    out = torch.full((pairs, N // 2 if gated else N), 77.0)
    launch, arguments = ROUTINES[routine]([out, x, w, order, starts, places])
    launch(*arguments)
    for pair, expert in enumerate(chosen.tolist()):
        place = int(places[expert])
        exact = x[pair // per_row].double() @ w[place].double().T
        if gated:
            gate, up = exact.chunk(2)
            exact = torch.nn.functional.silu(gate) * up
        if place < 0:
            assert (out[pair] == 77.0).all()
        else:
            torch.testing.assert_close(out[pair].double(), exact, rtol=2e-2, atol=5e-2)
