"""The tables of figures in README.md and bench/README.md are those of bench/results."""

import json
import re
import shutil

import pytest
from weft.bench.document import DOCUMENTS, LINES, RESULTS, ROOT, TABLES, read_records, table, update
from weft.bench.documents.goals import GOALS, missed_table
from weft.bench.documents.prose import QUOTED, quote
from weft.bench.documents.sparse import KINDS
from weft.bench.sparse_attention import MODELS, POLICIES, loss_rows, recorded
from weft.bench.sparse_attention import RESULTS as SPARSE
from weft.frontend.checkpoints.checkpoint import ZOO, open_checkpoint
from weft.ir.sparse.loss_table import FILE_NAME, load_losses


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_its_figures_are_those_of_the_files(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"<!-- figures: \w+ -->\n\| (figure|policy) \|", text)
    assert update(text) == text, "run: python -m bench.document"


def test_a_new_record_makes_the_tables_stale(tmp_path):
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    record = json.loads((tmp_path / "cpu.json").read_text())
    record["figures"]["tiny_decode_vs_llamacpp"] = 123.0
    (tmp_path / "cpu.json").write_text(json.dumps(record))
    for path in DOCUMENTS[:2]:
        text = path.read_text(encoding="utf-8")
        assert "| 123.0 x |" in update(text, tmp_path) and update(text, tmp_path) != text


def test_a_goal_is_listed_until_its_record_reaches_it():
    records = read_records()
    for goal in GOALS:
        figures = records[goal.file]["figures"]
        for factor, reached in ((1.01, not goal.at_most), (0.99, goal.at_most), (1.0, True)):
            changed = {goal.file: {"figures": {**figures, goal.figure: factor * goal.aim}}}
            rows = missed_table({**records, **changed})
            assert (goal.row({**records, **changed}) in rows) == (not reached), goal.figure
    said, *rows = missed_table(records)
    reached = len(GOALS) - (len(rows) - 3)
    assert 0 < reached < len(GOALS) and f"{reached} are reached" in said


def test_a_new_record_of_sparse_attention_makes_its_page_stale(tmp_path):
    """Loss and speed of a policy stand in one row; what nobody timed says so."""
    record = json.loads((RESULTS / "sparse_attention.json").read_text())
    record["figures"] |= {"perplexity_loss_tiny_moe_wide_tail": 0.5, "policy_tail": {"us": 100.0},
                          "operation_128k_batch8": {"dense_us": 1000.0}}  # fmt: skip
    record["figures"].pop("policy_top_p_tail", None)
    (tmp_path / "sparse_attention.json").write_text(json.dumps(record))
    made = update(DOCUMENTS[3].read_text(encoding="utf-8"), tmp_path)
    row = next(line for line in made.splitlines() if "1/16, channels=32, tail=mean)` | +50" in line)
    assert row.endswith("| 100 | 10.0 x | not recorded |")
    assert "tail=mean)` | " in made and made.count("not measured | not measured") >= 1


def test_a_variant_measured_by_itself_says_so_and_leaves_the_others_their_date(tmp_path):
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    record = json.loads((tmp_path / "moe_offload.json").read_text())
    old = record["sections"]["variants"]
    record["figures"]["variants"]["bf12 pages"]["source"] = {**old, "commit": "abcdef0"}
    (tmp_path / "moe_offload.json").write_text(json.dumps(record))
    made = table("variants", tmp_path)
    assert f"1. NVIDIA H200; commit {old['commit']}," in made and "2. NVIDIA H200; " in made
    assert made.count("commit abcdef0") == 1


@pytest.mark.parametrize("name", QUOTED)
def test_its_sentences_quote_the_records(name):
    text, records = (ROOT / name).read_text(encoding="utf-8"), read_records()
    assert quote(text, name, records) == text, "run: python -m bench.document"
    for quoted in QUOTED[name]:
        figures = records[quoted.file]["figures"]
        changed = {**records, quoted.file: {"figures": {**figures, quoted.figure: 7654.0}}}
        assert f"{7654 * quoted.factor:{quoted.form}}" in quote(text, name, changed) != text
    with pytest.raises(LookupError, match="0 times"):
        quote("", name, records)


@pytest.mark.parametrize("model", MODELS)
def test_what_max_loss_goes_by_is_the_record(model):
    """The shipped tables of losses: every policy that was measured, as it was."""
    figures, at = recorded(SPARSE), model.replace("-", "_")
    rows = load_losses(ZOO / model / FILE_NAME, open_checkpoint(model).identity, model)
    assert rows == loss_rows(figures, model)
    names = {policy: name for name, policy in POLICIES.items()}
    assert {*names} - {row.policy for row in rows} == {POLICIES["wide"]}, "not asked to retrieve"
    for row in rows:
        name = names[row.policy]
        assert row.loss == figures[f"perplexity_loss_{at}_{name}"]
        assert row.bytes == figures[f"bytes_read_{at}_{name}"]
        both = [figures[f"{kind}_{row.length}_loss_points_{at}_{name}"] for kind in KINDS]
        assert row.points == round(sum(both) / 2, 2)


def test_a_new_record_of_offloading_makes_its_page_stale(tmp_path):
    shutil.copy(RESULTS / "moe_offload.json", tmp_path)
    record = json.loads((tmp_path / "moe_offload.json").read_text())
    row = {"host_bytes": 50 << 30, "batch": 9, "pages": "bf16", "tokens_per_s": 1000.0,
           "bound": "link", "bound_tokens_per_s": 1100.0}  # fmt: skip
    less = {**row, "host_bytes": 40 << 30, "pages": "bf12", "tokens_per_s": 980.0}
    record["figures"] |= {"rate_by_host_memory": [row, less], "rate_by_host_memory_int8": [row],
                          "host_memory_saving": 1.25, "host_memory_saving_int8": None}  # fmt: skip
    (tmp_path / "moe_offload.json").write_text(json.dumps(record))
    made = update(DOCUMENTS[2].read_text(encoding="utf-8"), tmp_path)
    assert "| pages of bf12 | 40.0 GiB | 9 | 980 | 98 % | 1,100 (link) |" in made
    assert "exact pages have it in 1.25x less" in made and "lossy do not reach it" in made


def test_every_line_says_another_thing():
    for lines in TABLES.values():
        assert len({line.what for line in lines}) == len(lines)
    assert len({(line.file, line.figure) for line in LINES}) == len(LINES)
