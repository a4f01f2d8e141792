"""From a policy to what its schedule is built for."""

from __future__ import annotations

from ..ir.offload.schedules import PipelineShape
from .policy import Policy


def pipeline_shape(policy: Policy, layers: int = 0, staged: bool = False) -> PipelineShape:
    """Return what the policy's schedule is built for.

    `layers` takes so many, from the first (0: all); `staged` lets pages pass through pinned memory.
    """
    kept = policy.layers[: layers or None]
    return PipelineShape(
        policy.micro_batches,
        tuple(layer.ringed for layer in kept), policy.ring,
        resident=tuple(layer.resident for layer in kept),
        cpu=tuple(layer.cpu for layer in kept), disk=tuple(layer.disk for layer in kept),
        lead=max(policy.lead, 1), staged=staged,
    )  # fmt: skip
