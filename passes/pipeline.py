"""The passes in their order, as plain tuples; `passes.manager` checks the order."""

from __future__ import annotations

from .graph.allowed_head import AllowedHead
from .graph.fusion import DropConcatOfSplit, FuseAddNorm, FuseRopeWrite, FuseSiblingMatmuls
from .graph.kv_offload import OffloadKeys
from .graph.matmul_parts import FuseCombineResidual, FuseMatmulParts
from .graph.memory_planning import PlanMemory
from .graph.moe_partition import MoePartition
from .graph.sparse_attention import OrderChannels, SparseAttention
from .graph.take_rows import TakeRowsEarly
from .graph.weight_format import ChooseWeightFormat
from .manager import Pass, UnknownPass
from .program.batching import Batching
from .program.canonicalize import Canonicalize
from .program.dead import DropDead
from .program.endpoints.calls import RemoteCalls
from .program.fold import FoldConstants
from .program.memory.budgets import PlanBudgets
from .program.memory.lifetimes import KVLifetimes
from .program.memory.liveness import FreeKV
from .program.plans.constraints import CompileConstraints
from .program.plans.lower import LowerToPlan
from .program.prefixes.sharing import PrefixSharing
from .tile.lowering.lower import LowerToTiles

PROGRAM_PASSES: tuple[Pass, ...] = (
    FoldConstants(), DropDead(), Canonicalize(), PrefixSharing(), CompileConstraints(),
)  # fmt: skip
REMOTE_PASSES: tuple[Pass, ...] = (FoldConstants(), DropDead(), Canonicalize(), RemoteCalls())
"""Instead of PROGRAM_PASSES, for a model behind an endpoint, which has no tokens to share."""
LOWERING: tuple[Pass, ...] = (LowerToPlan(),)
PLAN_PASSES: tuple[Pass, ...] = (FreeKV(), Batching(), PlanBudgets(), KVLifetimes())
MODEL_PASSES: tuple[Pass, ...] = (
    ChooseWeightFormat(), FuseSiblingMatmuls(), DropConcatOfSplit(), FuseRopeWrite(),
    TakeRowsEarly(), FuseAddNorm(),
    FuseMatmulParts(), FuseCombineResidual(), LowerToTiles(),
    PlanMemory((("T", 512), ("R", 16), ("B", 16), ("M", 1024))),
)  # fmt: skip
"""The passes over a model's graph with their usual options; `tile.regimes` makes the choice of
them and their options for each kind of step."""

SPARSE_PASSES: tuple[Pass, ...] = (OrderChannels(), SparseAttention(), OffloadKeys())
"""Behind FuseRopeWrite, where sparse attention is asked for; the last where keys lie in host
memory, behind the fusions."""


def known_passes() -> dict[str, Pass]:
    """Return every pass that a pipeline has, by name."""
    steps = (
        *PROGRAM_PASSES, RemoteCalls(), *LOWERING, *PLAN_PASSES, *MODEL_PASSES, *SPARSE_PASSES,
        MoePartition(), AllowedHead(),
    )  # fmt: skip
    return {step.name: step for step in steps}


def named_passes(names: list[str]) -> tuple[Pass, ...]:
    """Return the passes of these names, in the order given; raises UnknownPass."""
    known = known_passes()
    for name in names:
        if name not in known:
            raise UnknownPass(name=name, known=", ".join(known))
    return tuple(known[name] for name in names)
