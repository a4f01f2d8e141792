"""Loss tables: written and read back, merged, and the cheapest policy within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest
from weft.ir.loss_table import (
    MeasuredLoss,
    NoLossTable,
    NoPolicyWithin,
    load_losses,
    policy_within,
    save_losses,
)

ROWS = [
    MeasuredLoss("sparse(ratio=1/16)", 0.03, 0.09),
    MeasuredLoss("sparse(top_p=0.8)", 0.004, 0.2),
    MeasuredLoss("sparse(top_p=0.8, tail=mean)", 0.0001, 0.1),
    MeasuredLoss("sparse(ratio=1/4)", 0.002, 0.3),
]


def test_cheapest_within_the_budget() -> None:
    assert str(policy_within(ROWS, 0.01, "m")) == "sparse(top_p=0.8, tail=mean)"
    assert str(policy_within([*ROWS[:2], ROWS[3]], 0.01, "m")) == "sparse(top_p=0.8)"
    assert str(policy_within(ROWS, 0.05, "m")) == "sparse(ratio=1/16)"
    with pytest.raises(NoPolicyWithin, match="the least is 0.01%, sparse\\(top_p=0.8"):
        policy_within(ROWS, 0.00001, "m")
    with pytest.raises(NoLossTable, match="no sparse policy"):
        policy_within([MeasuredLoss("dense", 0.0, 1.0)], 0.5, "m")


def test_tables_are_merged_and_belong_to_a_model(tmp_path: Path) -> None:
    file = tmp_path / "attention_losses.json"
    with pytest.raises(NoLossTable, match='run: weft evaluate m --attention "dense'):
        load_losses(file, "me", "m")
    save_losses(file, "me", ROWS[:2])
    save_losses(file, "me", [MeasuredLoss(ROWS[0].policy, 0.02, 0.1), ROWS[3]])
    found = {row.policy: row.loss for row in load_losses(file, "me", "m")}
    assert found == {ROWS[0].policy: 0.02, ROWS[1].policy: 0.004, ROWS[3].policy: 0.002}
    with pytest.raises(NoLossTable, match="another model"):
        load_losses(file, "you", "m")
    file.write_text(file.read_text()[:-40])
    with pytest.raises(NoLossTable, match="cannot be read"):
        load_losses(file, "me", "m")
