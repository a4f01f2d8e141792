"""How long planning takes on this CPU: the policy search, and the hazard proof of each schedule.

Needs no GPU, but the solvers of both (highspy, z3), which a GPU machine may lack.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from .bench import Bench
from .variants import WHOLE

SCHEDULES = ("ring", "cgo", "s2", "s3", "s4")


def planning(bench: Bench) -> dict[str, Any]:
    """Search a policy at the base's cap for the base's model and for all 32 layers of its kind, and
    prove a policy's pipeline under each schedule; a row each, and the slowest of both. Beside the
    seconds of a search stand those of the CPU: the same on a machine that is quiet."""
    searches = [_searched(bench, model) for model in _models(bench)]
    proofs = [_proven(name, searches[-1]["policy"]) for name in SCHEDULES]
    rows = [{key: value for key, value in row.items() if key != "policy"} for row in searches]
    return {
        "search_s": max(row["search_s"] for row in searches),
        "proof_s": max(row["proof_s"] for row in proofs),
        "searches": rows,
        "proofs": proofs,
    }


def _models(bench: Bench) -> tuple[str, ...]:

    return (bench.base.model,) if bench.tiny else (bench.base.model, WHOLE)


def _searched(bench: Bench, model: str) -> dict[str, Any]:
    from weft.cost_model.hrm.grid import Grid
    from weft.cost_model.hrm.machine import HostedGpu
    from weft.cost_model.hrm.model import Site
    from weft.cost_model.hrm.search import policy_of, refined
    from weft.cost_model.hrm.shape import MoeShape, Workload
    from weft.frontend.checkpoints.checkpoint import open_checkpoint

    shape = MoeShape.of(open_checkpoint(model).config)
    machine = HostedGpu.of(bench.prices)
    site = Site(machine, float(bench.base.gpu_memory), machine.host_memory)
    begun, worked = time.perf_counter(), time.process_time()
    found = refined(shape, Workload(bench.base.prompt, bench.base.new), site, Grid())
    return {
        "model": model, "search_s": time.perf_counter() - begun,
        "search_cpu_s": time.process_time() - worked, "tried": found.tried,
        "solved": found.solved, "policy": policy_of(found, shape),
    }  # fmt: skip


def _proven(name: str, policy: Any) -> dict[str, Any]:
    from weft.cost_model.pipelines import pipeline_shape
    from weft.ir.offload.schedules import build_pipeline
    from weft.passes.graph.hazards import prove_hazards

    shape = pipeline_shape(policy)
    whole = 2 * max(map(len, shape.ringed))  # others than the ring have room for two layers' pages
    pipeline = build_pipeline(name, shape if name == "ring" else replace(shape, ring=whole))
    begun = time.perf_counter()
    proof = prove_hazards(pipeline)
    spent = time.perf_counter() - begun
    return {"schedule": name, "tasks": len(pipeline.tasks), "proof_s": spent, "by": proof.by,
            "lemmas": proof.lemmas, "windows": proof.windows}  # fmt: skip
