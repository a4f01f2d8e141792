"""The policy search: exact against brute force, its bounds below what they bound, its errors."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm import search as searching
from weft.cost_model.hrm.bounds import lower_bound
from weft.cost_model.hrm.grid import Grid
from weft.cost_model.hrm.linear import RING
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.memory import GIB, Batch, host_lines
from weft.cost_model.hrm.milp import solve
from weft.cost_model.hrm.model import Site, linear_model, pricing
from weft.cost_model.hrm.popularity import BadPopularity, popularity
from weft.cost_model.hrm.popularity import parse as parse_popularity
from weft.cost_model.hrm.shape import MoeShape, NoExperts, UnevenPages, Workload
from weft.cost_model.hrm.spread import colder
from weft.cost_model.hrm.starts import CALLS_PER_PAGE
from weft.cost_model.hrm.trouble import GpuTooSmall, HostTooSmall
from weft.frontend.models.presets import preset
from weft.tests.each_time import each_time, examples

MIXTRAL = replace(MoeShape.of(preset("mixtral-8x7b")), layers=16)
SMALL = replace(MIXTRAL, layers=2, experts=3)
H200 = HostedGpu.of(load("h200"))
WORKLOAD = Workload(77, 32)
COARSE = Grid(micro_batches=(1, 32), most=256)


def brute_force(model) -> tuple[dict, float] | None:
    """Every count of pages by home, and every ring."""
    (total,) = model.totals
    best = None
    most_slots = int((model.limits[0].most - model.limits[0].row.fixed)
                     / model.limits[0].row.each[RING])  # fmt: skip
    others = [home for home in model.allowed if home != "streamed"]
    for counts in product(range(total + 1), repeat=len(others)):
        if sum(counts) > total:
            continue
        pages = {(home, 0): count for home, count in zip(others, counts, strict=True)}
        pages["streamed", 0] = total - sum(counts)
        for slots in range(max(0, most_slots) + 1):
            chosen = {**pages, RING: slots}
            if model.fits(chosen) and (best is None or model.seconds(chosen) < best[1] - 1e-12):
                best = (chosen, model.seconds(chosen))
    return best


@st.composite
def cases(draw):
    batch = draw(st.sampled_from([1, 8, 64, 640]))
    micro_batch = draw(st.sampled_from([size for size in (1, 8, 64) if size <= batch]))
    machine = replace(
        H200, disk=draw(st.sampled_from([0.0, 6e9])), cpu_flops=draw(st.sampled_from([1e12, 2e13])),
        dram=draw(st.sampled_from([9e10, 4e11])), dram_shared=draw(st.sampled_from([9e10, 4e11])),
    )  # fmt: skip
    site = Site(
        machine, draw(st.sampled_from([2.4, 3.5, 4.5, 8.0])) * GIB,
        draw(st.sampled_from([2.0, 3.5, 16.0])) * GIB, disk=draw(st.sampled_from([0.0, 4 * GIB])),
        staged=draw(st.booleans()),
    )  # fmt: skip
    attention = draw(st.sampled_from(["cpu", "gpu"]))
    made = Batch(batch, micro_batch, attention, 1024, draw(st.sampled_from([1, 2])),
                 cpu_experts=draw(st.booleans()))  # fmt: skip
    return made, searching.site_of(site, made)


@given(cases())
@settings(max_examples=examples(60), deadline=None)
def test_solver_equals_brute_force(case) -> None:
    batch, site = case
    model = linear_model(SMALL, WORKLOAD, batch, site)
    expected, found = brute_force(model), solve(model)
    if expected is None:
        assert found is None
        return
    assert found is not None
    counts, seconds = found
    assert model.fits(counts)
    assert seconds == pytest.approx(expected[1], rel=1e-6)
    assert lower_bound(model) <= seconds * (1 + 1e-9)
    assert lower_bound(model, ()) <= lower_bound(model) * (1 + 1e-9)


@pytest.mark.parametrize("pages", each_time([2, 0], 2))
def test_search_equals_solving_the_whole_grid(pages) -> None:
    """With 0 pages an expert, the search chooses among all slices down to a small page."""
    site = Site(H200, 4.0 * GIB, 6.0 * GIB)
    grid = Grid(micro_batches=(4, 32), prefill_tokens=(1024, 8192), most=64, kv_gpu=(0.0, 1.0),
                pages_per_expert=pages)  # fmt: skip
    found = searching.search(SMALL, WORKLOAD, site, grid)
    best = None
    for family in grid.families(SMALL, WORKLOAD, site.host_memory + site.gpu_memory):
        for batch in grid.members(family, WORKLOAD):
            answer = solve(linear_model(SMALL, WORKLOAD, batch, searching.site_of(site, batch)))
            if answer is not None and (best is None or answer[1] / batch.batch < best):
                best = answer[1] / batch.batch
    assert best is not None
    assert found.seconds / found.batch.batch == pytest.approx(best, rel=1e-6)
    assert found.solved < found.tried


@given(cases())
@settings(max_examples=examples(15), deadline=None)
def test_solver_equals_brute_force_where_prompts_are_read_beside_decode(case) -> None:
    batch, site = case
    workload = replace(WORKLOAD, overlap=True)
    batch = Grid().members(batch, workload)[0]
    model = linear_model(SMALL, workload, batch, site)
    expected, found = brute_force(model), solve(model)
    assert (expected is None) == (found is None)
    if expected is not None and found is not None:
        assert found[1] == pytest.approx(expected[1], rel=1e-6)
        assert model.prefill_seconds(found[0]) == 0.0
        assert lower_bound(model) <= found[1] * (1 + 1e-9)


def test_prompts_beside_decode_take_less_host_memory_for_as_many_sequences() -> None:
    """Half a run's keys a sequence: (p + g) / (p + g / 2) as many fit, and none waits for all."""
    apart, beside = Workload(77, 128), Workload(77, 128, overlap=True)
    batch = Batch(1000, 250, "cpu", 8192, 1)
    keys = [host_lines(MIXTRAL, w, batch)["keys and values"] for w in (apart, beside)]
    prompts = 1000 * beside.beside
    assert keys[1] / keys[0] == pytest.approx((1000 * (77 + 64 + 8) + prompts) / (1000 * 213))
    site = Site(H200, 16 * GIB, 56 * GIB)
    grid = Grid(most=4000, pages_per_expert=1, attention=("cpu",), cpu_experts=(False,))
    rates = []
    for workload in (apart, beside):
        found = searching.search(MIXTRAL, workload, site, grid)
        rates.append(found.batch.batch * workload.new / found.seconds)
        policy = searching.policy_of(found, MIXTRAL)
        assert policy.overlap == workload.overlap and searching.batch_of(policy) == found.batch
    assert rates[1] > 1.1 * rates[0]


def test_policy_of_a_mixtral_on_a_capped_h200() -> None:
    """The policy keeps its memory, and says what the counts say."""
    grid = Grid(pages_per_expert=4)
    found = searching.search(MIXTRAL, Workload(512, 64), Site(H200, 16 * GIB, 128 * GIB), grid)
    policy = searching.policy_of(found, MIXTRAL)
    counts = searching.counts_of(policy)
    assert {key: counts[key] for key in found.counts} == dict(found.counts)
    assert found.model.fits(counts)
    assert max(len(layer.ringed) for layer in policy.layers) <= policy.ring
    assert searching.batch_of(policy) == found.batch
    assert found.model.bound(counts) == "cpu"  # its attention


@pytest.mark.parametrize("staged", [True, False])
def test_pages_of_what_is_found_are_simulated_as_they_go(staged, monkeypatch) -> None:
    simulated = []

    def known(*scene: object, staged: bool = False, **rest: object) -> SimpleNamespace:
        simulated.append(staged)
        return SimpleNamespace(seconds=1.0)

    monkeypatch.setattr(searching, "simulated_step", known)
    grid = Grid(micro_batches=(64,), attention=("cpu",), most=64, pages_per_expert=1)
    searching.refined(MIXTRAL, WORKLOAD, Site(H200, 16 * GIB, 128 * GIB, staged=staged), grid)
    assert simulated and set(simulated) == {staged}


def test_the_largest_batch_may_be_one_micro_batch() -> None:
    """Where the CPU computes experts, each micro-batch reads their weights again."""
    grid = Grid(micro_batches=(32, 512), most=300, kv_gpu=(0.0,))
    found = searching.search(MIXTRAL, Workload(512, 64), Site(H200, 16 * GIB, 64 * GIB), grid)
    assert found.batch.batch == 300
    assert found.batch.micro_batch in {300, 150, 100, 75}


def test_more_memory_is_never_slower() -> None:
    grid = Grid(micro_batches=(16, 64), most=256, pages_per_expert=4)
    rates = []
    for gpu in (12, 16, 24, 48):
        found = searching.search(MIXTRAL, WORKLOAD, Site(H200, gpu * GIB, 64 * GIB), grid)
        rates.append(found.batch.batch / found.seconds)
    assert rates == sorted(rates)


def test_cold_experts_go_to_the_cpu() -> None:
    """One expert of each layer serves few tokens: it is the first that the CPU computes."""
    machine = replace(H200, dram=4e11, dram_shared=4e11)
    counts = [[10.0] * 8 for _ in range(16)]
    for layer, row in enumerate(counts):
        row[layer % 8] = 0.1
    known = popularity(counts, 16, 8)
    site = Site(machine, 16 * GIB, 128 * GIB, popularity=known)
    grid = Grid(micro_batches=(64,), attention=("cpu",), most=64, pages_per_expert=1)
    found = searching.search(MIXTRAL, WORKLOAD, site, grid)
    policy = searching.policy_of(found, MIXTRAL)
    assert all(layer.homes[number % 8] == "c" for number, layer in enumerate(policy.layers))
    assert searching.counts_of(policy, known) == {
        **{(home, n): 0 for home in ("resident", "streamed", "cpu", "disk") for n in range(8)},
        **found.counts,
    }
    uniform = searching.search(MIXTRAL, WORKLOAD, replace(site, popularity=None), grid)
    assert found.seconds < uniform.seconds


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1, 2", "line 1 column 6: no JSON"),
        ('{"a": 1}', "expected lists of numbers"),
        ("[[1, 2, 3]]", "layer 0 lists 3 experts, the model has 8"),
        ("[[1, 2], [3, 4]]", "2 layers are listed, the model has 16"),
        ("[0, 0, 0, 0, 0, 0, 0, 0]", "only zeros"),
        ("[1, 1, 1, 1, 1, 1, 1, -1]", "a count that is none"),
        (f"[0.5, 1, 1, 1, 1, 1, 1, {10**400}]", "a count that is none"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_popularity_that_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(BadPopularity, match=message):
        parse_popularity(text, 16, 8)


def test_popularity_in_classes() -> None:
    """128 experts in eight classes, the most used first; shares of a layer sum to 1."""
    known = parse_popularity(str(list(range(1, 129))), 3, 128)
    assert [members for members, _ in known.classes] == [16] * 8
    assert sum(members * share for members, share in known.classes) == pytest.approx(1)
    assert known.experts_of[2][:2] == (127, 126)


def test_an_expert_that_nothing_uses_costs_neither_processor_arithmetic() -> None:
    """It was priced as one that is used as often as others."""
    counts = [4, 4, 4, 4, 4, 4, 2, 0]
    for machine in (H200, replace(H200, call_start=0.0)):
        site = Site(machine, 16 * GIB, 128 * GIB, popularity=popularity([counts], 16, 8))
        unit = pricing(MIXTRAL, WORKLOAD, site).unit(Batch(64, 32, "cpu", 128, 1), 32)
        assert unit.page_gpu[-1] == unit.page_dram[-1] == 0 < unit.page_gpu[-2]
        assert unit.page_cpu[-1] == CALLS_PER_PAGE * machine.call_start


@pytest.mark.parametrize(
    "site, error, message",
    [
        (Site(H200, 1.5 * GIB, 128 * GIB), GpuTooSmall,
         r"GPU memory of 1.5 GiB is \d+.\d MiB too small: one layer's working set is"),
        (Site(H200, 16 * GIB, 20 * GIB), HostTooSmall,
         r"host memory of 20.0 GiB is 1\d.\d GiB too small: .* are 3\d.\d GiB"),
        (Site(replace(H200, disk=1e9), 16 * GIB, 20 * GIB, disk=5 * GIB), HostTooSmall,
         r"host memory of 20.0 GiB is \d.\d GiB too small"),
    ],
)  # fmt: skip
def test_memory_that_is_too_small(site, error, message: str) -> None:
    with pytest.raises(error, match=message):
        searching.search(MIXTRAL, WORKLOAD, site, COARSE)


def test_the_stated_need_is_enough() -> None:
    """What the error asks for is accepted."""
    with pytest.raises(HostTooSmall) as caught:
        searching.search(MIXTRAL, WORKLOAD, Site(H200, 16 * GIB, 20 * GIB), COARSE)
    needed = caught.value.fields["needed"] + 2 * MIXTRAL.page_bytes(4)
    found = searching.search(MIXTRAL, WORKLOAD, Site(H200, 16 * GIB, needed), COARSE)
    assert found.batch.batch >= 1


def test_a_disk_holds_what_memory_does_not() -> None:
    site = Site(replace(H200, disk=6e9), 16 * GIB, 20 * GIB, disk=64 * GIB)
    found = searching.search(
        MIXTRAL, WORKLOAD, site, Grid(micro_batches=(16,), most=64, pages_per_expert=4)
    )
    assert found.counts["disk", 0] > 0
    assert found.model.bound(found.counts) == "disk"


def test_pages_that_do_not_divide_an_expert() -> None:
    with pytest.raises(UnevenPages, match="14336 cannot be cut into 3 pages.*\nhint: .*1, 2, 4, 7"):
        searching.search(MIXTRAL, WORKLOAD, Site(H200, 16 * GIB, 64 * GIB),
                         Grid(pages_per_expert=3))  # fmt: skip


def test_a_dense_model_has_no_policy() -> None:
    with pytest.raises(NoExperts, match="LlamaForCausalLM is dense"):
        MoeShape.of(preset("llama-1b"))


def test_what_the_cpu_computes_is_what_is_used_least() -> None:
    counts = {("cpu", 0): 5, ("resident", 0): 11, ("cpu", 1): 3, ("streamed", 1): 9,
              ("resident", 1): 4}  # fmt: skip
    found = colder(counts, (0.2, 0.0))
    assert found["cpu", 0] == 0 and found["cpu", 1] == 8
    for home in ("cpu", "resident", "streamed"):
        assert sum(found.get((home, n), 0) for n in (0, 1)) == sum(
            counts.get((home, n), 0) for n in (0, 1)
        )
    assert colder(counts, (0.1, 0.1)) == counts
