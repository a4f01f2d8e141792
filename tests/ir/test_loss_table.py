"""Loss tables: written and read back, merged, and the cheapest policy within a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from weft.ir.sparse.loss_table import (
    MeasuredLoss,
    NoLossTable,
    NoPolicyWithin,
    kept_by,
    load_losses,
    policy_within,
    save_losses,
    worst_length,
)

ROWS = [
    MeasuredLoss("sparse(ratio=1/16)", 0.03, 0.09, 40.0, 512),
    MeasuredLoss("sparse(top_p=0.8)", 0.004, 0.2, 0.5, 2048),
    MeasuredLoss("sparse(top_p=0.8, tail=mean)", 0.0001, 0.1, -0.2, 512),
    MeasuredLoss("sparse(ratio=1/4)", 0.002, 0.3, 0.9, 512),
    MeasuredLoss("sparse(ratio=1/8)", 0.0, 0.05, 4.5, 512),
]


def test_cheapest_within_the_budget() -> None:
    assert str(policy_within(ROWS, 0.01, "m")) == "sparse(top_p=0.8, tail=mean)"
    assert str(policy_within([*ROWS[:2], ROWS[3]], 0.01, "m")) == "sparse(top_p=0.8)"
    assert str(policy_within(ROWS, 0.4, "m")) == "sparse(ratio=1/8)"
    assert str(policy_within(ROWS[:1], 0.4, "m")) == "sparse(ratio=1/16)", "all that is allowed"
    with pytest.raises(NoPolicyWithin, match="the nearest is sparse.ratio=1/16., with 3.00% of"):
        policy_within(ROWS[:1], 0.39, "m")  # though perplexity is within the budget
    chosen = policy_within(ROWS, 0.01, "m")
    assert kept_by(ROWS, chosen, 0.01) == (
        "sparse(top_p=0.8, tail=mean) reads 10.0% of the bytes and was measured to lose 0.01% of "
        "perplexity and -0.20 points of retrieval at 512 tokens, where max_loss allows 1.00% and "
        "1.00 points; what reads less loses more: sparse(ratio=1/8) 4.50 points of retrieval at "
        "512 tokens, sparse(ratio=1/16) 3.00% of perplexity and 40.00 points of retrieval at 512 "
        "tokens"
    )
    assert kept_by(ROWS, chosen, 0.4).endswith("where max_loss allows 40.00% and 40.00 points")
    with pytest.raises(NoPolicyWithin, match="the nearest is sparse.top_p=0.8, tail=mean., with 0"):
        policy_within(ROWS, 0.00001, "m")
    with pytest.raises(NoLossTable, match="no sparse policy"):
        policy_within([MeasuredLoss("dense", 0.0, 1.0, 0.0, 512)], 0.5, "m")


def test_retrieval_counts_where_it_is_worst() -> None:
    """By the mean of its kinds of questions, so that what one kind wins the other may lose."""
    assert worst_length({512: [4.0, -4.0], 1024: [1.0, 2.0], 7900: [-3.0, 0.0]}) == (1.5, 1024)


def test_tables_are_merged_and_belong_to_a_model(tmp_path: Path) -> None:
    file = tmp_path / "attention_losses.json"
    with pytest.raises(NoLossTable, match='run: weft evaluate m --attention "dense'):
        load_losses(file, "me", "m")
    save_losses(file, "me", ROWS[:2])
    save_losses(file, "me", [replace(ROWS[0], loss=0.02), ROWS[3]])
    found = {row.policy: row.loss for row in load_losses(file, "me", "m")}
    assert found == {ROWS[0].policy: 0.02, ROWS[1].policy: 0.004, ROWS[3].policy: 0.002}
    with pytest.raises(NoLossTable, match="another model"):
        load_losses(file, "you", "m")
    file.write_text(file.read_text().replace("losses 2", "losses 1"))
    with pytest.raises(NoLossTable, match="no losses of retrieval yet\n.*evaluate m"):
        load_losses(file, "me", "m")
    file.write_text(file.read_text()[:-40])
    with pytest.raises(NoLossTable, match="cannot be read"):
        load_losses(file, "me", "m")


ROW = '{"format": "weft attention losses 2", "model": "me", "rows": [%s]}'


@pytest.mark.parametrize("row", [
    "3", "[" * 200_000,
    '{"policy": "sparse(color=1)", "loss": 0, "bytes": 1, "points": 0, "length": 512}',
    '{"policy": "sparse(k=64)", "loss": 0, "bytes": 1}',
    *(f'{{"policy": "sparse(k=64)", "loss": 0, "bytes": 1, "points": {loss}, "length": 512}}'
      for loss in ("NaN", "null")),
    *(f'{{"policy": "sparse(k=64)", "loss": {loss}, "bytes": 1, "points": 0, "length": 512}}'
      for loss in ("NaN", "Infinity", "1" + "0" * 400, "null", "[]")),
])  # fmt: skip
def test_a_table_that_cannot_be_is_refused_by_name(row: str, tmp_path: Path) -> None:
    """A loss that is no number keeps no budget."""
    file = tmp_path / "attention_losses.json"
    file.write_text(ROW % row)
    with pytest.raises(NoLossTable, match=f"{file} cannot be read\n.*evaluate m"):
        load_losses(file, "me", "m")


def test_a_full_disk_leaves_the_old_table_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = tmp_path / "attention_losses.json", Path.write_bytes
    save_losses(file, "me", ROWS[:2])

    def full(path: Path, data: bytes) -> int:
        write(path, data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_losses(file, "me", ROWS)
    assert len(load_losses(file, "me", "m")) == 2 and list(tmp_path.iterdir()) == [file]
