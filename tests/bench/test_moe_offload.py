"""The offloading bench: its whole way on a simulated GPU, its prompts, its keys."""

import json
import statistics
from dataclasses import replace

import pytest
import torch
from weft.bench import moe_offload
from weft.bench.moe_offload import KEYS, error_settings, measure, tiny_bench
from weft.bench.moe_record import keeper, merge, record
from weft.bench.offload.memory import saving
from weft.bench.offload.runs import Setting, SkewedRouters, prompts_of, routing_of, run
from weft.bench.offload.store import shared_store
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.runtime.execution.weights import RandomTensors

pytestmark = pytest.mark.usefixtures("little_to_look_through")  # the bench looks before each run


@pytest.fixture(scope="module")
def bench(request):
    return tiny_bench("h200", request.config.cache.mkdir("weft-kernels"))


def test_schedules_and_bound_run_and_agree(bench):
    figures = measure(bench, ["schedules", "bound"])
    assert set(KEYS) <= figures.keys() and figures["tiny"]
    assert all(figures[key] > 0 for key in ("vs_s2", "vs_s3", "vs_s4", "fraction_of_bound"))
    assert figures["hrm_error_max"] is None
    tokens = [found.tokens for found in bench.done.values() if found.setting.batch == 4]
    assert len(tokens) == 5 and all(made == tokens[0] for made in tokens)
    json.dumps(figures)


def test_planning_searches_and_proves_every_schedule(bench):
    figures = measure(bench, ["planning"])
    assert {row["schedule"] for row in figures["proofs"]} == {"ring", "cgo", "s2", "s3", "s4"}
    assert all(row["by"] == "z3" and row["windows"] > 0 for row in figures["proofs"])
    assert figures["search_s"] >= figures["searches"][0]["search_s"] > 0
    assert figures["proof_s"] == max(row["proof_s"] for row in figures["proofs"]) > 0
    assert figures["searches"][0]["tried"] > 0
    json.dumps(figures)


@pytest.mark.slow
def test_errors_cpu_experts_and_peers_run(bench):
    pytest.importorskip("accelerate")
    figures = measure(bench, ["accelerate", "cpu_experts", "errors", "host_memory"])
    assert figures["cpu_experts_gain_n320"] > 0 and figures["paper_error_max"] > 0
    assert figures["rate_by_host_memory"][-1]["pages_on_disk"] > 0
    assert figures["vs_accelerate"] > 0 and figures["hrm_error_max"] is not None
    assert len(figures["hrm_settings"]) >= 8


@pytest.mark.slow  # the schedules above are measured as these are
def test_rates_by_host_memory_stand_beside_their_bounds_and_lossy_ones_apart(bench):
    figures = measure(bench, ["host_memory"])
    exact, lossy = figures["rate_by_host_memory"], figures["rate_by_host_memory_int8"]
    assert [row["pages"] for row in (*exact, *lossy)] == ["f32", "f32", "f32", "int8"]
    assert exact[-1]["pages_on_disk"] > 0 == exact[0]["pages_on_disk"]
    assert exact[-1]["bound"] == "disk" and exact[-1]["bound_tokens_per_s"] is None  # h200 has none
    assert all(row["bound_tokens_per_s"] > 0 for row in (*exact, *lossy) if row["bound"] != "disk")
    assert lossy[0]["host_bytes"] < exact[0]["host_bytes"]


def test_the_saving_is_the_least_memory_with_the_rate_of_the_whole():
    def row(host, rate):
        return {"host_bytes": host, "tokens_per_s": rate, "pages": "bf16"}

    whole = row(100, 1000)
    assert saving([whole, row(80, 990), row(40, 500)], whole) == pytest.approx(100 / 76.73, 1e-3)
    assert saving([row(30, 2000), row(20, 1000)], whole) == pytest.approx(100 / 20)
    assert saving([row(90, 900)], whole) is None
    packed = {**row(60, 1000), "pages": "bf12"}
    assert saving([whole, row(40, 500), packed], whole) == pytest.approx(100 / 60)


def test_one_store_at_a_time_of_the_pages_that_a_setting_has():
    base = Setting("random:tiny-moe", 4, 6, 10, 4, 24 << 20, weights="f32", micro_batches=2,
                   max_tokens=32, threads=1)  # fmt: skip
    bench = moe_offload.Bench(base, "h200", tiny=False)
    first = bench.store_of(base)
    assert bench.store_of(replace(base, batch=2)) is first
    narrow = bench.store_of(replace(base, page_format="int8"))
    assert narrow is not first and narrow.pool.tensors["down"].dtype == torch.int8
    assert bench.store_of(replace(base, pages_per_expert=2)).pool.count == 2 * narrow.pool.count
    scaled = narrow.pool.tensors["down"][0] * narrow.pool.tensors["down_scale"][0][:, None]
    exact = first.pool.tensors["down"][0]
    assert scaled.std() == pytest.approx(float(exact.std()), rel=0.05)


def test_a_failed_section_is_named_and_the_others_go_on(bench, monkeypatch, tmp_path):
    def broken(_):
        raise RuntimeError("no link")

    monkeypatch.setitem(moe_offload.SECTIONS, "bound", broken)
    bench = moe_offload.Bench(bench.base, "h200", tiny=False)
    monkeypatch.setitem(moe_offload.SECTIONS, "schedules", lambda _: {"vs_s2": 1.5})
    file = tmp_path / "figures.json"
    figures = measure(bench, ["bound", "schedules"], keeper(file, "1"))
    assert figures["fraction_of_bound"] is None and "no link" in figures["why"]["bound"]
    found = json.loads(file.read_text())
    assert (
        list(found["sections"]) == ["schedules"] and "no link" in found["figures"]["why"]["bound"]
    )


def test_at_least_twenty_settings_are_compared():
    base = moe_offload.full_bench(moe_offload.parser().parse_args([])).base
    assert len(set(error_settings(base, tiny=False))) >= 20


@pytest.mark.parametrize(
    "option", [("--batch", "320"), ("--workload", "512+64"), ("--hardware", "cpu.json")]
)
def test_other_workloads_are_not_recorded_as_the_usual_one(option, capsys):
    parsing = moe_offload.parser()

    def refuse(*arguments):
        moe_offload.refuse_other_settings(parsing, parsing.parse_args(arguments))

    refuse("--record", "--budget", "30", "--only", "bound")
    refuse(*option, "--record", "--out", "figures.json")
    with pytest.raises(SystemExit):
        refuse(*option, "--record")
    assert f"leave out {option[0]}, or --record for --out" in capsys.readouterr().err


def test_prompts_have_the_mean_and_the_longest_asked_for():
    lengths = [len(p) for p in prompts_of(Setting("x", 4000, 77, 418, 1, 1), 100)]
    assert max(lengths) == 418 and abs(statistics.mean(lengths) - 77) < 5
    assert {len(p) for p in prompts_of(Setting("x", 9, 12, 12, 1, 1), 100)} == {12}


def test_bent_routers_prefer_the_last_experts():
    plain, bent = RandomTensors(), SkewedRouters(RandomTensors(), 4.0)
    name = "model.layers.0.block_sparse_moe.gate.weight"
    x = torch.randn(500, 64)
    shares = [
        (x @ source.read(name, (8, 64)).T).topk(2).indices.flatten().bincount(minlength=8) / 1000
        for source in (plain, bent)
    ]
    assert shares[1][4:].sum() > shares[0][4:].sum() + 0.1
    assert torch.equal(bent.read("model.norm.weight", (8,)), plain.read("model.norm.weight", (8,)))


def test_random_weights_with_bent_routers_run_and_use_all_layers(bench):
    found = run(replace(bench.base, model="random:tiny-moe", skew=2.0, new=3))
    assert len(found.tokens) == 4 and all(len(made) == 3 for made in found.tokens)
    assert found.busy["gpu"] > 0 and found.gpu_peak <= bench.base.gpu_memory


def test_a_drawn_trace_is_replayed_and_its_coldest_experts_go_to_the_cpu(bench):
    setting = replace(bench.base, routing="zipf:1.5", new=3, cpu_experts=2)
    found = run(setting)
    counts = routing_of("zipf:1.5", open_checkpoint("tiny-moe").config).counts()
    assert [set(layer.cpu) for layer in found.policy.layers] == [
        set(sorted(range(8), key=lambda expert: -row[expert])[-2:]) for row in counts
    ]
    assert "routing of zipf:1.5" in setting.name


@pytest.mark.slow  # the schedules have one store and the same tokens above
def test_a_store_serves_several_executors(bench):
    base = replace(bench.base, model="random:tiny-moe", new=3)
    store = shared_store(base)
    found = [run(replace(base, schedule=name), store) for name in ("ring", "cgo", "s4")]
    assert found[0].tokens == found[1].tokens == found[2].tokens
    assert found[0].host_bytes < sum(t.nbytes for t in store.pool.tensors.values()) + 2 * (
        store.k.nbytes
    )


def test_steps_in_the_middle_of_a_run_are_bounded_and_need_no_prefill(bench):
    found = run(replace(bench.base, new=40, steps=5, middle=True, prefill=False))
    assert len(found.steps) == 5 and found.prefill == 0.0


def test_figures_are_kept_after_each_section(bench):
    kept = []
    measure(bench, ["schedules", "bound"], lambda figures, name: kept.append(figures))
    assert len(kept) == 2 and kept[0]["fraction_of_bound"] is None and kept[0]["vs_s2"]


def test_narrow_pages_run_too(bench):
    found = run(replace(bench.base, page_format="int8", new=2))
    assert any("lossy" in note for note in found.notes)


@pytest.mark.slow  # tests/runtime/offload/test_offload.py has pages on disk
def test_a_model_larger_than_host_memory_has_the_same_tokens(bench):
    found = measure(bench, ["disk"])["disk"]
    assert found["same_tokens"] and 0 < found["pages_on_disk"] < found["pages"]
    assert found["tokens_per_s"] > 0 and found["bytes_per_s"] > 0


@pytest.mark.slow  # tests below run its kinds of routing and pages one by one
def test_variants_stand_beside_their_bounds(bench):
    rows = measure(bench, ["variants"])["variants"]
    assert set(rows) == {"zipf routing", "prompts beside decode", "keys on the GPU", "int8 pages"}
    assert all(row["tokens_per_s"] > 0 and row["fraction_of_bound"] > 0 for row in rows.values())
    beside = next(found for found in bench.done.values() if found.setting.arriving)
    assert beside.policy.overlap and not beside.tokens[-1][1:]
    assert all(len(made) > 1 for made in beside.tokens[:-1])


def test_a_section_measured_anew_leaves_the_others(tmp_path):
    file = tmp_path / "figures.json"
    run = {"setting": "a", "step_ms": 2.0}
    record({"vs_s2": 1.5, "vs_s3": None, "measured": [run], "why": {"x": "late"}}, ["schedules"],
           {"commit": "1"}, file)  # fmt: skip
    other = {"setting": "b", "step_ms": 3.0}
    record({"vs_s2": None, "vs_s3": 1.6, "x": 1.0, "measured": [other], "why": {}}, ["bound"],
           {"commit": "2"}, file)  # fmt: skip
    found = json.loads(file.read_text())
    assert found["figures"]["vs_s2"] == 1.5 and found["figures"]["vs_s3"] == 1.6
    assert found["figures"]["measured"] == [run, other] and not found["figures"]["why"]
    assert found["sections"] == {"schedules": {"commit": "1"}, "bound": {"commit": "2"}}
    again = tmp_path / "again.json"
    assert merge(file, again) == ["schedules", "bound"]
    assert json.loads(again.read_text()) == found


def test_runs_of_other_models_and_variants_measured_anew_replace_no_others(tmp_path):
    file, run = tmp_path / "figures.json", {"setting": "a", "step_ms": 2.0}
    rows = {"zipf": {"tokens_per_s": 1.0}, "int8": {"tokens_per_s": 2.0}}
    small, large = {**run, "model": "16 layers"}, {**run, "model": "32 layers"}
    record({"variants": rows, "measured": [small], "why": {}}, ["variants"], {"commit": "1"}, file)
    again = {"int8": {"tokens_per_s": 3.0}}
    record({"variants": again, "measured": [large], "why": {}}, ["variants"], {"commit": "2"}, file)
    found = json.loads(file.read_text())["figures"]
    assert found["measured"] == [small, large]
    assert found["variants"]["zipf"] == {"source": {"commit": "1"}, "tokens_per_s": 1.0}
    assert found["variants"]["int8"] == {"source": {"commit": "2"}, "tokens_per_s": 3.0}
    assert merge(file, tmp_path / "again.json") == ["variants"]
    merged = json.loads((tmp_path / "again.json").read_text())["figures"]
    assert merged["variants"] == found["variants"]
