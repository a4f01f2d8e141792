"""What each launch of a step does: an operation before lowering, or a part of sparse attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..cost_model.hardware import Level
from ..cost_model.scene import Scene, Work
from ..cost_model.sparse_attention import STEPS, by_steps, sparse_parts
from ..cost_model.sparse_bytes import Overheads
from ..cost_model.sparse_work import policy_of, scored_contexts, select, shape_of_heads
from ..cost_model.work import work_of
from ..ir.core import Module, Operation
from ..ir.sparse.policy import few_pairs

if TYPE_CHECKING:
    from ..passes.tile.regimes import Regime

PARTS = {
    "label_scores": "scores", "word_scores": "scores",
    "attended_words": "everything", "chosen_words": "selection", "step_counts": "counts",
    "select": "lists",
    "gathered": "attention",
    "sparse_parts": "attention", "held_parts": "attention",
}  # fmt: skip
"""The part of sparse attention that a kernel is, by what its name begins with."""
WRITES = {"label_write": "graph.label_write", "word_write": "graph.label_write",
          "value_sums": "graph.value_sums"}  # fmt: skip
"""Kernels without results, and the operation that each is."""


@dataclass(frozen=True)
class Launched:
    """What one launch does; `seconds` is what the cost model says of it, its start aside, where
    that is more than its bytes and FLOPs at the device's rates."""

    work: Work = Work()
    seconds: float = 0.0


def works_of(graph: Module, scene: Scene) -> dict[str, Work]:
    """Return the work of each operation of a graph, by the name of its first result."""
    found: dict[str, Work] = {}
    for op in graph.walk():
        if not op.results or op.regions:
            continue
        work = work_of(op, scene)
        if op.name == "graph.finalize":  # one kernel computes the partials too
            work = sum((work_of(state, scene) for state in _states(op, scene)), Work()) + work
        found[op.results[0].name] = work
    return found


def _states(operation: Operation, scene: Scene) -> Iterator[Operation]:
    """Yield what makes the states that a merge or a finalize reads."""
    for value in operation.operands:
        made = scene.definitions.get(value.name)
        if made is not None and made.name == "graph.merge":
            yield from _states(made, scene)
        elif made is not None and value.type.name == "state":
            yield made


def sparse_launches(
    regime: Regime, graph: Module, scene: Scene, level: Level
) -> Mapping[str, Launched]:
    """Return what each of a regime's launches of sparse attention does, by its kernel's name; of
    the first layer, as all select alike."""
    first: dict[str, Operation] = {}
    for op in graph.walk():
        first.setdefault(op.name, op)
    if "graph.select" not in first:
        return {}
    chosen = first["graph.select"]
    end = next(op for op in graph.walk()
               if op.name == "graph.finalize" and _selects(op, scene))  # fmt: skip
    attention = sum((work_of(state, scene) for state in _states(end, scene)), Work())
    parts = _parts(chosen, scene, level, attention)
    found: dict[str, Launched] = {}
    few = few_pairs(scene.binding.sequences, chosen["kv_heads"])
    names = [kernel["name"].name for kernel, _ in regime.kernels]
    at_once = few and any(name.startswith("attended_words") for name in names)
    for name in names:
        part = next((part for start, part in PARTS.items() if name.startswith(start)), "")
        wrote = next((of for start, of in WRITES.items() if name.startswith(start)), "")
        idle = _idle(name, few) or (at_once and part == "attention")
        if part:
            found[name] = Launched() if idle else parts[part]
        elif wrote in first:
            found[name] = Launched(work_of(first[wrote], scene))
    return found


def _selects(operation: Operation, scene: Scene) -> bool:
    """Return whether attention reads what is selected, or what is fetched of that."""
    kvsets = [scene.definitions.get(state.operands[2].name) for state in _states(operation, scene)]
    return any(made and made.name in ("graph.select", "graph.fetch") for made in kvsets)


def _parts(chosen: Operation, scene: Scene, level: Level, attention: Work) -> dict[str, Launched]:
    """Return what the launches of a select do, and of the attention over what it chose.

    Scores are written by one launch, and read by those that choose, whose vector operations
    `cost_model.sparse_attention` says.
    """
    policy, shape = policy_of(chosen), shape_of_heads(chosen, scene)
    contexts = scored_contexts(policy, scene)
    if not contexts:
        return dict.fromkeys(PARTS.values(), Launched(attention))
    steps = by_steps(level.kind, policy, shape.head_dim)
    overheads = STEPS if steps else Overheads.of(policy)
    whole, share = select(chosen, scene, overheads), chosen.attribute("expected") or 0.0
    scored = select(chosen, scene, replace(overheads, score_reads=0.0, index=0.0))
    lists = select(chosen, scene, replace(overheads, score=0.0)).activation_bytes
    reads = whole.activation_bytes - scored.activation_bytes - lists
    times = sparse_parts(shape, level, policy, max(contexts), len(contexts), share)
    listed, half = Work(activation_bytes=reads + lists), 2 if steps else 1
    return {
        "scores": Launched(scored, times["scores"]),
        "counts": Launched(Work(activation_bytes=reads / half), times["counts"]),
        "lists": Launched(Work(activation_bytes=reads / half + lists), times["lists"]),
        "selection": Launched(scored + listed, sum(times.values()) - times["attention"]),
        "attention": Launched(attention, times["attention"]),
        "everything": Launched(scored + listed + attention, sum(times.values())),
    }


def _idle(name: str, few: bool) -> bool:
    """Return whether a launch for few or for many pairs has no programs for these rows."""
    return ("_many" in name and few) or ("_few" in name and not few)
