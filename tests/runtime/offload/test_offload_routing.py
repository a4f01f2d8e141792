"""Routing recorded and replayed: what the whole model's routers choose, and what a trace says."""

import json
from dataclasses import replace

import numpy as np
import torch
from typer.testing import CliRunner
from weft.cli.app import app
from weft.cli.output import NotWritten
from weft.cli.routing import NotRecorded
from weft.codegen.meaning import graph_reference
from weft.compiler.loading import reference_executor
from weft.cost_model.hrm.popularity import read
from weft.cost_model.hrm.shape import MoeShape
from weft.cost_model.policy_text import loads
from weft.ir.offload.routing import RoutingTrace
from weft.options import Options
from weft.runtime.offload.routing import RoutingRecorder, RoutingReplay
from weft.tests.runtime.offload.offload_cases import LIMITS, MIB, policy, step


def recorded(cases, steps):
    executor = cases.executor(policy("cgo"))
    recorder = executor.routing = RoutingRecorder(cases.checkpoint.config, "tiny-moe")
    for each in steps:
        executor.forward(each)
    taken = executor.popularity()
    executor.close()
    return recorder.trace(), taken


STEPS = (
    step((range(40, 60), 0, [0, 1]), ((9, 10, 11), 0, [2])),
    step(((5,), 20, [0, 1]), ((6,), 3, [2])),
)


def test_the_trace_is_what_the_whole_models_routers_choose(cases, monkeypatch):
    """The oracle: the reference executor, whose routers are asked as they choose."""
    found, taken = recorded(cases, STEPS)
    real, chosen = graph_reference.meaning_of("graph.moe_route"), []

    def asked(run, operation, logits):
        weights, experts = real(run, operation, logits)
        chosen.append(experts)
        return weights, experts

    monkeypatch.setitem(graph_reference._MEANING, "graph.moe_route", asked)
    oracle = reference_executor(cases.checkpoint, cases.checkpoint.graph, Options(**LIMITS))
    wanted = []
    for each in STEPS:
        chosen.clear()
        oracle.forward(each)
        wanted.append(torch.stack(chosen, 1))
    assert np.array_equal(found.chosen, torch.cat(wanted).numpy())
    assert found.decode.tolist() == [False] * 23 + [True, True]
    everything = RoutingTrace(found.chosen, np.zeros(25, bool), 8)
    assert taken.tolist() == everything.counts()


def test_a_prompt_of_one_token_and_a_chunk_inside_a_prompt_do_not_decode(cases):
    recorder = RoutingRecorder(cases.checkpoint.config)
    for given in (
        ((5,), 20, [0, 1]),  # decodes
        ((6,), 0, [2]),  # a prompt's only token
        ((7,), 3, [3]),  # a chunk that more follows
    ):
        each = step(given)
        recorder.begin(
            each if given[0] != (7,) else replace(each, logits_rows=each.logits_rows[:0])
        )
    found = recorder.trace()
    assert found is not None and found.decode.tolist() == [True, False, False]


def test_a_models_own_trace_replayed_gives_its_own_logits(cases):
    """Rows begin at the trace's first token, so a trace of the same step changes nothing."""
    plain, trace = cases.executor(policy("cgo")), recorded(cases, STEPS[:1])[0]
    wanted = plain.forward(STEPS[0]).clone()
    plain.close()
    executor = cases.executor(policy("cgo"))
    executor.routing = RoutingReplay(trace, "cpu")
    assert torch.equal(executor.forward(STEPS[0]), wanted)
    executor.close()


def test_a_replayed_trace_decides_what_experts_compute(cases):
    trace = RoutingTrace.drawn(5, 8, 2, 64, 2.0)
    executor = cases.executor(policy("ring"))
    executor.routing = RoutingReplay(trace, "cpu")
    for each in STEPS:
        assert torch.isfinite(executor.forward(each)).all()
    taken = executor.popularity().tolist()
    phase = 64 // 4
    for layer in range(5):
        rows = np.concatenate((trace.chosen[:23, layer], trace.chosen[phase : phase + 2, layer]))
        assert taken[layer] == np.bincount(rows.ravel(), minlength=8).tolist()
    executor.close()


PROGRAM = (
    'program p(text: str) -> str:\n    "{text}"\n    gen rest(max_tokens=4)\n    return rest\n'
)


def weft(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_a_run_is_recorded_and_tunes_what_goes_to_the_cpu(tmp_path, cases):
    (tmp_path / "p.weft").write_text(PROGRAM)
    file, out = tmp_path / "routing.npz", tmp_path / "policy.txt"
    run = ("run", tmp_path / "p.weft", "-m", "tiny-moe", "--arg", "text=copy: dog", "--threads", 1)
    done = weft(*run, "--gpu-memory", "20MiB", "--record-routing", file, "--json")
    assert done.exit_code == 0, done.output
    shape = MoeShape.of(cases.checkpoint.config)
    known = read(file, shape)
    assert json.loads(done.stdout)["stats"]["generated_tokens"] >= 3
    assert RoutingTrace.load(file).decode.sum() >= 2
    again = weft(*run, "--gpu-memory", "20MiB", "--offload", "cpu_experts=2", "--offload",
                 f"routing={file}", "--json")  # fmt: skip
    assert again.exit_code == 0 and json.loads(again.stdout)["value"] == json.loads(
        done.stdout)["value"]  # fmt: skip
    made = cases.offloading(None, gpu_memory=20 * MIB, offload_cpu_experts=2,
                            offload_routing=str(file))  # fmt: skip
    for layer, ranked in zip(made.policy.layers, known.experts_of, strict=True):
        assert set(layer.cpu) == set(ranked[-2:])
    tuned = weft("tune", "tiny-moe", "--popularity", file, "--gpu-memory", "9MiB", "--out", out)
    assert tuned.exit_code == 0, tuned.output
    assert any(layer.cpu for layer in loads(out.read_text()).layers)


def test_what_cannot_be_recorded_is_refused_before_the_run(tmp_path):
    (tmp_path / "p.weft").write_text(PROGRAM)
    run = ("run", tmp_path / "p.weft", "-m", "tiny-moe", "--arg", "text=a", "--record-routing")
    done = weft(*run, tmp_path / "r.npz")
    assert isinstance(done.exception, NotRecorded) and "no --gpu-memory" in str(done.exception)
    done = weft(*run, tmp_path / "no" / "r.npz", "--gpu-memory", "20MiB")
    assert isinstance(done.exception, NotWritten) and "folder that exists" in str(done.exception)
