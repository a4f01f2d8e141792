"""The hazard proof: every schedule passes, and whatever is taken from one is refused by name."""

import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.ir.offload.pipeline import Access, Kind, Pipeline, Task
from weft.ir.offload.schedules import SCHEDULES, PipelineShape, build_pipeline
from weft.passes.graph import hazards
from weft.passes.graph.hazards import Hazard, Missing, obligations, prove_hazards, race
from weft.tests.each_time import each_time
from weft.tests.passes.graph import published_pipeline as published

MIXED = PipelineShape(
    3, ringed=((0, 1, 2), (1, 2), (0, 2, 3)), ring=6, resident=((5,), (), (1,)),
    cpu=((3, 4), (0, 3), ()), disk=((2,), (1, 2), ()), relay=2,
)  # fmt: skip


def without(pipeline, name, wait):
    """The pipeline with one wait of one task dropped."""
    tasks = tuple(
        replace(task, waits=tuple(w for w in task.waits if w != wait))
        if task.name == name
        else task
        for task in pipeline.tasks
    )
    return replace(pipeline, tasks=tasks)


@st.composite
def shapes(draw):
    layers, pages = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    homes = draw(
        st.lists(st.text("rscd", min_size=pages, max_size=pages), min_size=layers, max_size=layers)
    )

    def of(letters):
        return tuple(tuple(p for p, home in enumerate(row) if home in letters) for row in homes)

    widest = max(map(len, of("sd")))
    slots = draw(st.integers(max(widest, 1), 2 * pages + 2))
    return PipelineShape(
        draw(st.integers(1, 5)), of("sd"), slots, of("r"), of("c"), of("d"),
        lead=draw(st.integers(1, 3)), warm=draw(st.booleans()),
        start=draw(st.integers(0, slots - 1)), relay=draw(st.integers(1, 3)),
        staged=draw(st.booleans()),
    )  # fmt: skip


@given(shapes(), st.sampled_from(sorted(SCHEDULES)))
@settings(max_examples=20, deadline=None)
def test_every_schedule_of_any_shape_is_proven_and_both_deciders_agree(shape, name):
    if name != "ring":
        shape = replace(shape, ring=max(shape.ring, 2 * shape.widest))
    pipeline = build_pipeline(name, shape)
    proof = prove_hazards(pipeline)
    assert proof.by == "z3" and proof.obligations == len(obligations(pipeline))
    assert race(pipeline) is None


@pytest.mark.parametrize(
    ("name", "staged"),
    each_time([*((name, False) for name in SCHEDULES), ("cgo", True)],
              ("ring", False), ("s3", False), ("cgo", True)),
)  # fmt: skip
def test_no_wait_can_be_dropped(name, staged):
    pipeline = build_pipeline(name, replace(MIXED, micro_batches=2, staged=staged))
    waits = [(task.name, wait) for task in pipeline.tasks for wait in task.waits]
    assert len(waits) > 20
    for task, wait in waits:
        faulty = without(pipeline, task, wait)
        with pytest.raises(Hazard) as caught:
            prove_hazards(faulty)
        named = (caught.value.fields["first"], caught.value.fields["second"])
        assert race(faulty) is not None
        assert named == (wait, task) or _between(faulty, named, wait, task)


def _between(pipeline, named, wait, task):
    """Whether the named pair is one that the dropped wait had put in order."""
    numbers = {each.name: n for n, each in enumerate(pipeline.tasks)}
    return numbers[named[0]] <= numbers[wait] and numbers[task] <= numbers[named[1]]


def test_the_message_names_the_pair_and_shows_times():
    pipeline = build_pipeline("cgo", PipelineShape(3, ringed=((0, 1, 2),) * 3, ring=6))
    task = next(t for t in pipeline.of_kind(Kind.PAGE) if t.waits)
    with pytest.raises(Hazard, match=rf"{task.name} overwrites page\.\d while") as caught:
        prove_hazards(without(pipeline, task.name, task.waits[0]))
    assert "may still read it" in str(caught.value)
    assert f"hint: {task.name} must wait for {task.waits[0]}" in str(caught.value)
    assert "for instance" in str(caught.value)


def test_the_published_codes_races_are_refused():
    shape = PipelineShape(4, ringed=((0, 1, 2, 3),) * 4, ring=8, staged=True)
    good = build_pipeline("cgo", shape)
    prove_hazards(good)
    with pytest.raises(Hazard, match=r"stage\.1\.2 overwrites relay\.0 while page\.1\.0 may"):
        prove_hazards(published.events_on_the_idle_stream(good))
    with pytest.raises(Hazard, match=r"seen_up\.0\.1 overwrites seen\.0 while route\.0\.0 may"):
        prove_hazards(published.hidden_state_reused(good))
    two = build_pipeline("cgo", replace(shape, micro_batches=2))
    prove_hazards(two)
    with pytest.raises(
        Missing, match=r"seen_up\.1\.0 reads seen_host\.\d=seen\.1\.0, which nothing"
    ):
        prove_hazards(published.no_attention_ahead(two))


def test_a_page_read_before_it_comes_and_one_that_comes_twice():
    pipeline = build_pipeline("ring", PipelineShape(2, ringed=((0, 1),) * 2, ring=3, warm=False))
    first = next(pipeline.of_kind(Kind.PAGE))
    late = tuple(t for t in pipeline.tasks if t is not first)
    late = tuple(replace(t, waits=tuple(w for w in t.waits if w != first.name)) for t in late)
    with pytest.raises(Missing, match="and page.0.0 is launched after it"):
        prove_hazards(replace(pipeline, tasks=(*late, replace(first, waits=()))))
    again = replace(first, name="again", waits=())
    with pytest.raises(Missing, match="several tasks write"):
        prove_hazards(replace(pipeline, tasks=(*pipeline.tasks, again)))


@pytest.mark.parametrize("held", ["before the step", "page.0"])
def test_a_page_that_is_overwritten_before_its_reader_is_launched(held):
    tasks = [
        Task("page.0", Kind.PAGE, "up", 0, writes=(Access("gpu.0", "page.0"),)),
        Task("page.1", Kind.PAGE, "up", 1, writes=(Access("gpu.0", "page.1"),)),
        Task("late", Kind.EXPERTS, "gpu", 0, reads=(Access("gpu.0", held),)),
    ]
    begin = 0 if held == "page.0" else 1
    broken = Pipeline("by hand", 1, 1, tuple(tasks[begin:]), (Access("gpu.0", "before the step"),))
    for prover in (prove_hazards, race):
        with pytest.raises(Missing, match="which page.1 overwrites, and page.1 is launched before"):
            prover(broken)


def test_a_page_that_two_queues_write_though_nobody_reads_the_first():
    first, second = (Task(f"page.{n}", Kind.PAGE, queue, n, writes=(Access("gpu.0", f"page.{n}"),))
                     for n, queue in enumerate(("up", "again")))  # fmt: skip
    prove_hazards(Pipeline("by hand", 1, 1, (first, replace(second, waits=("page.0",)))))
    with pytest.raises(Hazard, match=r"page.1 overwrites gpu.0 while page.0 may still write it"):
        prove_hazards(Pipeline("by hand", 1, 1, (first, second)))


def test_mixtrals_layers_are_a_few_lemmas_whatever_their_number():
    proofs = [
        prove_hazards(build_pipeline("cgo", PipelineShape(14, (tuple(range(8)),) * layers, 16)))
        for layers in (8, 32)
    ]
    assert proofs[0].lemmas == proofs[1].lemmas < 20
    assert proofs[1].windows == 4 * proofs[0].windows - 3 and proofs[1].tasks > 3000


def test_without_z3_paths_decide(monkeypatch):
    monkeypatch.setitem(sys.modules, "z3", None)
    pipeline = build_pipeline("ring", MIXED)
    assert prove_hazards(pipeline).by == "closure"
    task = next(task for task in pipeline.tasks if task.waits)
    with pytest.raises(Hazard, match="must wait for"):
        prove_hazards(without(pipeline, task.name, task.waits[0]))


def test_a_solver_is_shown_a_planted_fault_in_the_windows(monkeypatch):
    """A proof that looks at the wrong edges fails on a pipeline that is right."""
    real = hazards._edges
    monkeypatch.setattr(hazards, "_edges", lambda pipeline: real(pipeline)[::2])
    with pytest.raises(Hazard):
        prove_hazards(build_pipeline("cgo", MIXED))


def test_tasks_print_on_a_line():
    task = Task("page.1.0", Kind.PAGE, "up", 1, waits=("experts.0.1.0",))
    assert str(task).strip() == "up page.1.0  waits experts.0.1.0"
