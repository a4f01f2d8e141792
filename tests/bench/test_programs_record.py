"""The programs' bench as a command: what is measured alone, what is recorded, what is refused."""

import json
import sys

import pytest
from weft.bench import programs
from weft.bench.contest.cases import CASES


def test_a_figure_that_cannot_be_had_is_null_with_a_reason(monkeypatch):
    def missing(quick):
        raise ImportError("not there")

    monkeypatch.setattr(programs, "_constrained", missing)
    monkeypatch.setattr(programs, "_compile_time", lambda quick: {"compile_10k_rows_s": 1.0})
    found = programs.elsewhere(quick=True)
    assert found["constrained_vs_free"] is None
    assert "not there" in found["reasons"]["constrained_vs_free"]
    assert found["compile_10k_rows_s"] == 1.0 and found["memory_proof_s"] is None
    kept = programs.to_keep(found)  # an earlier figure goes; one that was not asked for stays
    assert kept["constrained_vs_free"] is None and "memory_proof_s" not in kept


def test_constrained_tokens_are_measured_alone_where_they_are_asked_for(monkeypatch):
    figures = {"constrained_vs_free": 1.5, "canonical_rate": 1.0, "schemas": 1000}
    monkeypatch.setattr(programs, "_constrained", lambda quick: figures)
    monkeypatch.setattr(programs, "_compile_time", lambda quick: pytest.fail("was not asked for"))
    found = programs.elsewhere(quick=True, only=["rag", "constrained"])
    assert found["constrained_vs_free"] == 1.5 and found["canonical_rate"] == 1.0
    assert "compile_10k_rows_s" not in found and not found["reasons"]
    assert programs.elsewhere(quick=True, only=["rag"]) == {}


def run_main(monkeypatch, *arguments):
    """Run the command in this process, whose cores and threads stay as they are."""
    monkeypatch.setattr(programs, "share_cores", lambda threads: None)
    monkeypatch.setitem(programs.os.environ, "WEFT_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["programs", *arguments])
    with pytest.raises(SystemExit) as ended:
        programs.main()
    return ended.value.code


@pytest.mark.parametrize("fails", [False, True])
def test_compile_time_is_recorded_alone_where_it_is_asked_for(monkeypatch, tmp_path, fails):
    path = tmp_path / "programs.json"
    path.write_text(json.dumps({"figures": (before := {"memory_proof_s": 9}), "sections": {}}))
    monkeypatch.setattr(programs, "RESULTS", path)
    monkeypatch.setattr(programs, "_constrained", lambda quick: pytest.fail("was not asked for"))
    figures = {"compile_10k_rows_s": 1.0, "memory_proof_s": 0.1, "rows": 10_000}
    monkeypatch.setattr(programs, "_compile_time", lambda quick: 1 // (not fails) and figures)
    run_main(monkeypatch, "--only", "compile_time", "--record")
    found = json.loads(path.read_text())
    assert [*found["sections"]] == ([] if fails else ["compile_time"])
    assert found["figures"] == before | ({} if fails else {k: figures[k] for k in found["figures"]})


@pytest.mark.parametrize("fails", [False, True])
def test_what_failed_keeps_its_figures_and_their_date(monkeypatch, tmp_path, fails):
    measured = {
        name: {"speedup": 2.0, "hit_rate_of_ideal": 1.0, "differing": []}
        for name in CASES if not (fails and name == "rag")
    }  # fmt: skip
    failed = {"rag": "broken"} if fails else {}
    monkeypatch.setattr(programs, "RESULTS", tmp_path / "programs.json")
    monkeypatch.setattr(programs, "run_programs", lambda *given: (measured, failed))
    monkeypatch.setattr(programs, "elsewhere", lambda *given: {"reasons": {}, "json_parse_rate": 1})
    status = run_main(monkeypatch, "--record")
    found = json.loads((tmp_path / "programs.json").read_text())
    assert bool(status) == fails and found["figures"]["json_parse_rate"] == 1
    assert ("rag" in found["sections"]) == ("rag" in found["figures"]) == (not fails)
    assert "chat" in found["sections"] and "compile_time" in found["sections"]
    assert ("speedup_geomean" in found["figures"]) == (not fails), "of all programs, or of none"


@pytest.mark.parametrize("whole", [False, True])
def test_a_program_measured_anew_changes_the_figures_over_all(monkeypatch, tmp_path, whole):
    before = {name: {"speedup": 2.0, "hit_rate_of_ideal": 1.0, "differing": []} for name in CASES}
    if not whole:
        del before["chat"]
    path = tmp_path / "programs.json"
    path.write_text(json.dumps({"figures": before | {"speedup_min": 0.5}, "sections": {}}))
    anew = {"rag": before["rag"] | {"speedup": 1.5}}
    monkeypatch.setattr(programs, "RESULTS", path)
    monkeypatch.setattr(programs, "run_programs", lambda *given: (anew, {}))
    run_main(monkeypatch, "--only", "rag", "--record")
    found = json.loads(path.read_text())
    assert found["figures"]["speedup_min"] == (1.5 if whole else 0.5)
    assert found["figures"]["rag"] == anew["rag"] and [*found["sections"]] == ["rag"]


@pytest.mark.parametrize("no_figure", [["--quick"], ["--rounds", "0"]])
def test_what_is_no_figure_is_not_recorded(monkeypatch, capsys, no_figure):
    monkeypatch.setattr(sys, "argv", ["programs", "--record", *no_figure])
    with pytest.raises(SystemExit):
        programs.main()
    assert no_figure[0] in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--http"], ["--target", "cuda"]])
def test_compile_time_is_refused_where_it_is_not_measured(monkeypatch, capsys, given):
    assert run_main(monkeypatch, "--only", "compile_time", *given) == 2
    assert "--only compile_time is no race there" in capsys.readouterr().err
