"""The programs' bench: ideal hits, the virtual clock, replay, equality, and the summary."""

import json
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weft.bench import compile_time, programs, programs_gpu
from weft.bench.contest.bound import Work, cpu_bound, table
from weft.bench.contest.calls import Call, ideal_hits
from weft.bench.contest.cases import CASES
from weft.bench.contest.contest import Contest, FewerPages, Run, Way, in_parts
from weft.bench.contest.figures import in_other_tokens, profile, same
from weft.bench.contest.replay import Replay
from weft.bench.contest.simulated import RooflinePrice
from weft.bench.in_turn import in_turn, share_pages
from weft.frontend.open import open_program
from weft.runtime.engine import Engine
from weft.runtime.execution.sampler import sample_rows
from weft.runtime.programs.timed_tools import TimedTools
from weft.runtime.programs.tools import ToolPool, tool_pool
from weft.runtime.schedule.request import Request, Sampling
from weft.runtime.simulator import SimulatedExecutor, ToyExecutor
from weft.runtime.tracing.trace import Trace

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def key(tokens):
    return np.array(tokens, ">i4").tobytes()


def slow_ideal(events):
    """The definition: for each call, the longest prefix that is a prefix of anything before."""
    known, total = [], 0
    for call, tokens in events:
        if call is not None:
            best = 0
            for other in known:
                shared = 0
                while shared < min(len(other), len(tokens)) and other[shared] == tokens[shared]:
                    shared += 1
                best = max(best, shared)
            total += min(best, call.reusable)
        known.append(tokens)
    return total


@given(st.lists(st.tuples(st.booleans(), TOKENS), max_size=12))
def test_the_ideal_is_the_longest_earlier_prefix_of_each_call(drawn):
    events = [
        (Call(key(tokens), len(tokens) - 1, 0) if is_call else None, tokens)
        for is_call, tokens in drawn
    ]
    assert ideal_hits((call, key(tokens)) for call, tokens in events) == slow_ideal(events)


@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_the_ideal_is_the_tokens_less_the_edges_of_their_tree(prompts):
    calls = [Call(key(tokens), len(tokens), 0) for tokens in prompts]
    edges = {tuple(tokens[: end + 1]) for tokens in prompts for end in range(len(tokens))}
    sent = sum(map(len, prompts))
    assert ideal_hits((call, call.prompt) for call in calls) == sent - len(edges)


def test_a_call_that_another_answered_is_neither_hit_nor_miss():
    one, other = Call(key([1, 2, 3]), 2, 0), Call(key([1, 2, 3]), 2, None)
    assert ideal_hits([(one, one.prompt), (other, other.prompt)]) == 0


def steps_of(engine, prompts, new):
    requests = []
    for number, prompt in enumerate(prompts):
        sequence = engine.create((number,))
        sequence.append(prompt)
        requests.append(Request(sequence, "gen", Sampling(max_tokens=new)))
        engine.submit(requests[-1])
    return requests, iter(lambda: engine.step() if engine else None, None)


def run(executor, prompts=((1, 2, 3), (1, 2, 4)), new=3):
    engine = Engine(executor)
    requests, steps = steps_of(engine, prompts, new)
    for _ in steps:
        pass
    return [request.generated().tolist() for request in requests], engine


def test_engines_that_run_in_turn_have_pages_of_their_own(monkeypatch):
    model, sides = ToyExecutor(50, num_pages=40), {"one": ((1, 2, 3),), "two": ((4, 5, 6), (4, 7))}
    said = {name: run(ToyExecutor(50), prompts, 6)[0] for name, prompts in sides.items()}
    for apart in (True, False):  # in the same pages they read each other's tokens
        engines = {name: Engine(FewerPages(model, 20)) for name in sides}
        if apart:
            share_pages([*engines.values()], model)
        begun = {name: steps_of(engines[name], prompts, 6) for name, prompts in sides.items()}
        clocks = iter([5.0, 1.0, 1.0, 1.0, 9.0, *[2.0] * 40])  # each step's seconds, in order
        stands = lambda: SimpleNamespace(seconds=lambda: next(clocks))  # noqa: B023, E731
        monkeypatch.setattr("weft.bench.in_turn.OwnClock", stands)
        order = []
        noted = lambda name, steps: (order.append(name) for _ in steps)  # noqa: B023, E731
        spent = in_turn({name: noted(name, steps) for name, (_, steps) in begun.items()})
        found = {name: [r.generated().tolist() for r in requests] for name, (requests, _)
                 in begun.items()}  # fmt: skip
        assert (found == said) is apart
        assert order[:6] == ["one", "two", "two", "two", "two", "one"]  # it has had 5 s, 3, then 12
        assert spent["one"] == 5.0 + 2.0 * order.count("one") and spent["two"] > 12.0
    with pytest.raises(ValueError, match="40 pages, not 41"):
        share_pages([Engine(FewerPages(model, n)) for n in (20, 21)], model)


def test_the_virtual_clock_adds_up_the_prices_of_steps():
    prices = []

    def price(queries, keys, rows):
        assert len(queries) == len(keys)
        assert all(fed <= seen for fed, seen in zip(queries, keys, strict=True))
        prices.append(1.0 + sum(queries))
        return prices[-1]

    executor = SimulatedExecutor(ToyExecutor(50), price)
    said, engine = run(executor)
    assert executor.now == sum(prices) and executor.steps == engine.steps == len(prices)
    assert said == run(ToyExecutor(50))[0]


def test_counted_steps_are_those_of_the_machine_with_tools_on_a_clock():
    model = ToyExecutor(50, num_pages=100)
    model.tokens_are_dear = True  # as on a CPU: it decides how many rows are open
    contest = Contest.__new__(Contest)
    contest.compilation = SimpleNamespace(executor=model)  # type: ignore[assignment]
    counted = contest._executor(Way(kv_tokens=200, replay=Replay(model)))
    assert counted.tokens_are_dear and isinstance(tool_pool(counted, {}), TimedTools)
    assert run(counted)[0] == run(ToyExecutor(50))[0] and counted.now == counted.steps
    priced = contest._executor(Way(kv_tokens=200, price=lambda fed, seen, rows: 2.0))
    assert not priced.tokens_are_dear and isinstance(tool_pool(priced, {}), TimedTools)
    timed = contest._executor(Way(kv_tokens=200))
    assert timed.tokens_are_dear and isinstance(tool_pool(timed, {}), ToolPool)


def test_the_roofline_price_of_8b_is_bound_by_its_weights():
    price = RooflinePrice()
    one = price([1], [512], 1)
    assert 15e9 / 4.3e12 < one < 2 * 16.1e9 / 4.2e12
    assert one < price([1] * 16, [512] * 16, 16) < 1.5 * one
    assert price([512], [512], 1) > 2 * one
    assert price([1] * 16, [8192] * 16, 16) > price([1] * 16, [512] * 16, 16)


def test_values_are_the_same_within_the_tolerance():
    assert same({"a": [1.0, "x"]}, {"a": [1.0001, "x"]})
    assert not same({"a": [1.0, "x"]}, {"a": [1.1, "x"]})
    assert not same([1.0], [1.0, 2.0])
    assert not same({"a": 1}, {"b": 1})


@pytest.mark.parametrize("name", CASES)
def test_rows_are_complete_distinct_and_always_the_same(name):
    case = CASES[name]
    rows = case.rows()
    assert rows == case.rows() and len(rows) == case.count
    assert len({str(row) for row in rows}) == len(rows)
    opened = open_program(case.path, None, case.program)
    names = [program.name for program in opened.file.programs]
    program = opened.file.programs[names.index(case.program or names[-1])]
    needed = {p.name for p in program.parameters if p.default is None}
    assert all(needed <= row.keys() <= {p.name for p in program.parameters} for row in rows)


def test_the_summary_takes_staged_programs_for_its_mean():
    def figures(speedup):
        return {"speedup": speedup, "hit_rate_of_ideal": 1.0, "differing": []}

    found = programs.summary({"chat": figures(2.0), "rag": figures(8.0), "mmlu": figures(1.0)})
    assert found["speedup_geomean"] == pytest.approx(4.0)
    assert found["speedup_min"] == 1.0
    assert found["staged_programs"] == ["chat", "rag"]


def test_a_profile_says_where_the_time_of_a_run_went():
    trace = Trace(kernels=False)
    engine = Engine(ToyExecutor(64), trace=trace)
    sequence = engine.create((0,))
    sequence.append((1, 2, 3))
    engine.submit(Request(sequence, "gen", Sampling(max_tokens=4)))
    start = perf_counter()
    while engine:
        engine.step()
    found = profile(Run(perf_counter() - start, [], engine, trace=trace))
    assert (found["steps"], found["prefill_tokens"], found["decode_tokens"]) == (4, 3, 3)
    parts = [found[key] for key in ("model_s", "sample_s", "engine_host_s", "between_steps_s")]
    assert min(parts) >= 0 and found["model_s"] > 0


def test_compile_time_and_memory_proof_are_measured():
    found = compile_time.compile_10k_rows(statements=6, rows=8)
    assert found["rows"] == 8 and found["compile_10k_rows_s"] > 0 and found["memory_proof_s"] > 0


def test_prompts_of_equal_text_in_other_tokens_are_counted():
    pieces = {1: "a", 2: "b", 3: "ab", 4: "c"}
    decode = lambda ids: "".join(pieces[id] for id in ids)  # noqa: E731
    ours, theirs = {(1, 2), (3, 4), (1, 2, 4), (4, 4)}, {(3,), (3, 4), (4,)}
    assert in_other_tokens(ours, theirs, decode) == 2  # "ab" and "abc", not what only we send


@pytest.mark.slow
def test_a_program_is_measured_on_the_shipped_model():
    from weft.bench.contest.contest import Bench
    from weft.bench.contest.figures import measure

    case = CASES["few_shot"]
    found = measure(Contest(Bench(), case, case.rows()[:4]), 1, RooflinePrice(), quick=True)
    assert found["equal_rows"] == 4 and found["hit_rate_of_ideal"] == 1.0
    assert found["speedup"] > 0 and found["simulated_8b_speedup"] > 1


def test_the_bound_is_the_same_work_in_full_even_steps():
    work = Work(lambda queries, keys, rows: 1.0 + 0.01 * sum(queries) + 0.001 * sum(keys))
    for queries, rows in (([100], 0), ([1, 1], 2), ([1, 1], 2), ([1], 1)):
        work(queries, [10] * len(queries), rows)
    counts = work.json()
    assert (counts["steps"], counts["tokens"], counts["rows"]) == (4, 105, 5)
    assert work.least_seconds(4, 105, 20) == pytest.approx(6 * (1.0 + 0.01 * 4 * 4 + 0.001 * 40))
    assert work.least_seconds(4, 105, 64) == pytest.approx(
        2 * (1.0 + 0.01 * 4 * 13 + 0.001 * 4 * 10)
    )


def test_the_tight_bound_knows_what_comes_late():
    """One row alone for three steps, then eight of two tokens at once; a step takes four."""
    work = Work(lambda queries, keys, rows: 1.0 + 0.01 * sum(queries))
    for queries in ([1], [1], [1], [2] * 8):
        work(queries, [1] * len(queries), len(queries))
    assert work.least_seconds(4, 19, 64) == pytest.approx(3 * (1 + 0.01 * 4 * 2))
    assert work.tight_seconds(4, 19, 64) == pytest.approx(3 * 1.01 + 2 * (1 + 0.01 * 4 * 2))


def test_a_sampler_of_some_rows_draws_for_any_number():
    def some(logits, mask, *settings):
        assert len(logits) <= 2
        return sample_rows(logits, mask, *settings)

    torch.manual_seed(1)
    logits, mask = torch.randn(5, 64), torch.randint(1, 1 << 30, (5, 2), dtype=torch.int32)
    settings = (torch.full((5,), 0.8), torch.zeros(5, dtype=torch.int32), torch.ones(5),
                torch.zeros(5), torch.rand(5))  # fmt: skip
    for allowed in (mask, None):
        whole = sample_rows(logits, allowed, *settings)
        parts = in_parts(some, 2)(logits, allowed, *settings)
        assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_the_table_has_both_sides_and_what_was_raced():
    side = {"steps": 4, "tokens": 105, "rows": 5, "rows_a_step": 1.25}
    found = {"work": {"weft": side, "requests": side | {"steps": 9}},
             "longest_path": 3, "simulated_8b_speedup": 1.5, "simulated_8b_bound": 2.0,
             "simulated_8b_tight_bound": 1.75}  # fmt: skip
    profile = {"model_s": 1.0, "engine_host_s": 0.1, "between_steps_s": 0.2,
               "prefill_tokens": 100, "decode_tokens": 5}  # fmt: skip
    raced = found | {"profile": {"weft": profile, "requests": profile}, "speedup": 1.1,
                     "seconds": {"requests": {"median": 3.0}}}  # fmt: skip
    raced["speedup_bound"] = cpu_bound(raced, 84)
    assert raced["speedup_bound"] == pytest.approx(3.0 / 0.8)
    head, simulated, both = table({"one": found, "two": raced, "three": {}})
    assert "4/9" in simulated and simulated.split()[-4:] == ["3", "1.50", "2.00", "1.75"]
    assert both.split()[-2:] == ["1.00/1.00", "0.30/0.30"] and "3.75" in both
    assert table({"three": {}}) == []


def test_records_of_some_programs_each_are_merged(tmp_path):
    """Figures over all programs are those of the union, later files win."""
    entry = {"speedup": 2.0, "hit_rate_of_ideal": 0.9}
    files = []
    for number, (name, speedup) in enumerate([("chat", 2.0), ("mmlu", 0.5), ("chat", 8.0)]):
        record = {"figures": {name: {**entry, "speedup": speedup}}, "sections": {name: {}}}
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(record))
    out = tmp_path / "all.json"
    programs_gpu.merge(files[:2], out)
    programs_gpu.merge(files[2:], out)
    found = json.loads(out.read_text())
    assert set(found["sections"]) == {"chat", "mmlu"}
    assert found["figures"]["gpu_speedup_geomean"] == pytest.approx(8.0)  # mmlu is not staged
    assert found["figures"]["gpu_speedup_min"] == 0.5 and found["figures"]["gpu_programs"] == 2
