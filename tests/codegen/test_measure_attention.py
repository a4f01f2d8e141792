"""The probes of attention on the CPU: the work that is counted is the work that is done."""

import numpy as np
import pytest
from weft.codegen.measure.attention import REPEATED, AttentionProbe
from weft.cost_model.hrm.demands import ROW_WIDTH, Scene, demand
from weft.cost_model.hrm.shape import MoeShape
from weft.passes.tile.attention.paged import Attention, attention

SHAPE = Attention(4, 2, 16, kv="bf16", rows=2)
PAGE_BYTES = 2 * 2 * 16 * 16 * 2
"""Of keys and values: pools, key heads, keys, channels, bytes."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> AttentionProbe:
    return AttentionProbe(attention(SHAPE), 2, 64 * PAGE_BYTES, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(("keys", "rows"), [(1, 64), (16, 64), (17, 32), (512, 2), (4096, 1)])
def test_rows_see_their_keys_and_all_pages_are_read(probe, keys: int, rows: int) -> None:
    assert probe.measure(keys).amount == REPEATED * rows * keys * probe.flops
    launch, given, out = probe.launch(keys)
    *_, table, starts, lengths = given
    assert table.shape == (rows, -(-keys // 16)) and set(lengths.tolist()) == {keys}
    assert starts.tolist() == list(range(rows + 1))
    if keys <= 1024:
        assert sorted(table.flatten().tolist()) == sorted(set(table.flatten().tolist()))
    out.fill_(np.nan)
    launch()
    np.testing.assert_allclose(out, 0.5, rtol=1e-5)  # the mean of values that are all alike


def test_rows_without_keys_are_what_a_row_takes_beside_them(probe) -> None:
    launch, given, out = probe.launch(0)
    out.fill_(np.nan)
    launch()
    assert given[-1].tolist() == [0] * 64 and not out.any()
    assert probe.row_start().amount == REPEATED * 64 and probe.row_start().probe() > 0


def test_work_is_counted_as_the_cost_model_counts_it(probe) -> None:
    shape = MoeShape(
        layers=1, width=64, ffn=8, experts=2, top_k=1, heads=4, kv_heads=2, head_dim=16,
        vocabulary=8,
    )  # fmt: skip
    asked = demand("attend", Scene(shape, 1, tokens=3, context=50))
    assert asked.cpu_vector == 3 * 50 * probe.flops
    assert asked.cpu_rows == 3 * 64 / ROW_WIDTH


def test_threads_are_measured_apart_and_the_pool_is_left_as_it_was(probe, monkeypatch) -> None:
    used: list[int] = []
    monkeypatch.setattr("weft.codegen.measure.attention._use_threads", used.append)
    measures = probe.by_threads([1, 2])
    assert set(measures) == {1, 2}
    assert all(measure.probe() > 0 for measure in measures.values())
    assert used == [1, 2, 2, 2]
