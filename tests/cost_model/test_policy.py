"""Policies: what they refuse, what they derive, and that both text forms read back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.placement import Home, Placement, PolicyError
from weft.cost_model.policy import Policy
from weft.cost_model.policy_text import dumps, from_json, loads, parse, to_json


def policy(**changes) -> Policy:
    base = Policy(
        batch=10, micro_batch=4, attention="cpu",
        layers=(Placement.counts(resident=2, streamed=12, cpu=2),) * 3,
        experts=8, pages_per_expert=2, ring=14,
    )  # fmt: skip
    return replace(base, **changes)


@st.composite
def policies(draw) -> Policy:
    experts, slices = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    page = st.sampled_from([home.value for home in Home])
    homes = st.text(page, min_size=experts * slices, max_size=experts * slices)
    layers = tuple(map(Placement, draw(st.lists(homes, min_size=1, max_size=5))))
    widest = max(len(layer.ringed) for layer in layers)
    batch = draw(st.integers(1, 5000))
    attention = draw(st.sampled_from(["cpu", "gpu"]))
    schedule = draw(st.sampled_from(["ring", "cgo", "s2", "s3"])) if attention == "cpu" else "s4"
    slots = widest * (1 if schedule == "ring" else 2) + draw(st.integers(0, 4))
    tokens = draw(st.integers(0, 4096))
    return Policy(
        batch=batch, micro_batch=draw(st.integers(1, batch)), attention=attention, layers=layers,
        experts=experts, pages_per_expert=slices, ring=slots,
        lead=draw(st.integers(0, 3)), kv_gpu=draw(st.floats(0, 1)) if schedule == "s4" else 0.0,
        schedule=schedule,
        page_format=draw(st.sampled_from(["bf16", "int4"])),
        prefill_tokens=tokens, overlap=bool(tokens) and draw(st.booleans()),
    )  # fmt: skip


@given(policies())
def test_round_trips(made: Policy) -> None:
    assert loads(dumps(made)) == made
    assert parse(json.dumps(to_json(made))) == made
    assert dumps(loads(dumps(made))) == dumps(made)


@given(policies())
def test_derived_figures(made: Policy) -> None:
    sizes = made.micro_batch_sizes()
    assert (sum(sizes), len(sizes)) == (made.batch, made.micro_batches)
    assert max(sizes) == made.micro_batch
    assert sum(made.share(home) for home in Home) == pytest.approx(1)
    experts = [made.gpu_fraction(0, expert) for expert in range(made.experts)]
    assert sum(experts) / made.experts == pytest.approx(
        1 - len(made.layers[0].cpu) / made.pages_per_layer
    )


def test_the_text_is_for_people() -> None:
    mixed = Placement.sets(16, resident=[0, 1], cpu=[14, 15])
    text = dumps(policy(layers=(mixed, mixed, Placement("s" * 16)), ring=17))
    assert text.splitlines()[:3] == ["weft policy 1", "batch = 10", "micro_batch = 4"]
    assert text.splitlines()[-2:] == ["layers 0-1 = r2 s12 c2", "layers 2 = s16"]


def test_pages_and_experts() -> None:
    made = policy()
    assert list(made.pages_of(1)) == [2, 3]
    assert (made.gpu_fraction(0, 7), made.gpu_fraction(0, 6)) == (0, 1)
    split = policy(layers=(Placement("rssssssssssssssc"),) * 3)
    assert split.gpu_fraction(2, 7) == 0.5
    assert split.widest == 14


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch": 0}, "batch: expected a whole number of at least 1, found 0"),
        ({"lead": 1.5}, "lead: expected a whole number of at least 0, found 1.5"),
        ({"micro_batch": 11}, "a micro-batch of 11 is larger than the batch of 10"),
        ({"kv_gpu": 1.1}, "kv_gpu: 1.1 is no share"),
        ({"overlap": True, "prefill_tokens": 0}, "no tokens of prompts beside a step's"),
        ({"kv_gpu": 0.5}, "kv_gpu: keys on the GPU, but attention on the CPU"),
        ({"kv_gpu": float("nan")}, "kv_gpu: nan is no share"),
        ({"attention": "tpu"}, "attention: 'tpu' is not known\nhint: known: cpu, gpu"),
        ({"schedule": "s4"}, "s4 computes attention on the GPU"),
        ({"attention": "gpu"}, "ring computes attention on the CPU, the policy on the GPU"),
        ({"layers": ()}, "at least one layer"),
        ({"experts": 7}, "layer 0: it places 16 pages, but 7 experts of 2 pages are 14"),
        ({"ring": 11}, "layer 0: it passes 12 pages through a ring of 11; .* needs 12 slots"),
        (
            {"schedule": "cgo"},
            "layer 0: it passes 12 pages through a ring of 14; .* needs 24 slots",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policy(**changes)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Placement("rsx"), r"page 2: no home has the letter 'x'\nhint: homes are: r \(res"),
        (lambda: Placement.sets(4, cpu=[4]), "page 4: the layer has pages 0 to 3"),
        (lambda: Placement.sets(4, cpu=[1], resident=[1]), "page 1: it is given two homes"),
    ],
)
def test_placements_that_are_refused(make, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make()


TEXT = dumps(policy())


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: a policy starts with the line"),
        (TEXT.replace("batch = 10", "batch = ten"), "line 2: expected a whole number, found 'ten'"),
        (TEXT.replace("lead = 2", "lead 2"), "line 8: expected `name = value`, found 'lead 2'"),
        (TEXT + "batch = 3\n", "line 14: batch is given twice"),
        (TEXT + "speed = 3\n", "line 14: a policy has no field 'speed'"),
        (TEXT + "layers 2 = s16\n", "line 14: layer 2 is placed twice"),
        (TEXT + "layers 4 = s16\n", "layers: layer 3 is not placed"),
        (TEXT + "layers 3- = s16\n", "line 14: expected layers such as 0-15, found '3-'"),
        (TEXT + "layers 3-2 = s16\n", "line 14: the layers of 3-2 end before they begin"),
        (TEXT + "layers 3 = 16s\n", "line 14: expected a run such as s12, found '16s'"),
        (TEXT + "layers 3 = x16\n", "line 14: no home has the letter 'x'"),
        (TEXT.replace("ring = 14\n", ""), "end: missing: ring"),
        ("{", "line 1 column 2: no JSON"),
        ('{"format": 1, "format": 1}', "top: the key 'format' stands twice"),
        ('{"format": 2}', "format: this weft reads format 1 only, not 2"),
        ('{"format": 1, "layers": 3}', "layers: expected a table, found 3"),
        ('{"format": 1, "batch": true}', "batch: expected a whole number, found True"),
    ],
)
def test_broken_text_says_where(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse(text)


def test_json_that_is_no_table() -> None:
    with pytest.raises(PolicyError, match="top: expected a table"):
        from_json([])
