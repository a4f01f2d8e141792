"""What makes a policy one that can be run: each rule names the field that breaks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.numbers import is_int
from ..ir.offload.page_formats import PAGE_FORMATS
from .placement import PolicyError

if TYPE_CHECKING:
    from .policy import Policy

ATTENTION = ("cpu", "gpu")
SCHEDULES = ("ring", "cgo", "s2", "s3", "s4")


def check(policy: Policy) -> None:
    """Raise PolicyError at the first rule that a policy breaks."""
    _check_counts(policy)
    _check_names(policy)
    _check_keys(policy)
    _check_layers(policy)
    _check_ring(policy)


def _check_counts(policy: Policy) -> None:
    for name in ("batch", "micro_batch", "experts", "pages_per_expert"):
        _whole(name, getattr(policy, name), 1)
    for name in ("ring", "lead", "prefill_tokens"):
        _whole(name, getattr(policy, name), 0)
    if policy.overlap and not policy.prefill_tokens:
        raise PolicyError(
            where="prefill_tokens", problem="no tokens of prompts beside a step's, with overlap",
            hint="without overlap prompts are read apart",
        )  # fmt: skip
    if policy.micro_batch > policy.batch:
        raise PolicyError(
            where="micro_batch",
            problem=f"a micro-batch of {policy.micro_batch} is larger than the batch of "
            f"{policy.batch}",
        )
    if not 0.0 <= policy.kv_gpu <= 1.0:
        raise PolicyError(where="kv_gpu", problem=f"{policy.kv_gpu!r} is no share between 0 and 1")


def _check_keys(policy: Policy) -> None:
    if policy.kv_gpu > 0 and policy.attention != "gpu":
        raise PolicyError(
            where="kv_gpu", problem="keys on the GPU, but attention on the CPU",
            hint="keys lie where attention is computed, or pass to it: take attention on the GPU",
        )  # fmt: skip


def _whole(name: str, value: object, least: int) -> None:
    if not is_int(value) or value < least:
        raise PolicyError(
            where=name, problem=f"expected a whole number of at least {least}, found {value!r}"
        )


def _check_names(policy: Policy) -> None:
    choices = (
        ("attention", policy.attention, ATTENTION),
        ("schedule", policy.schedule, SCHEDULES),
        ("page_format", policy.page_format, tuple(PAGE_FORMATS)),
    )
    for name, value, known in choices:
        if value not in known:
            raise PolicyError(
                where=name, problem=f"{value!r} is not known", hint=f"known: {', '.join(known)}"
            )
    if (policy.schedule == "s4") != (policy.attention == "gpu"):
        where = "GPU" if policy.schedule == "s4" else "CPU"
        raise PolicyError(
            where="schedule",
            problem=f"{policy.schedule} computes attention on the {where}, the policy on the "
            f"{policy.attention.upper()}",
            hint="attention on the GPU goes with the schedule s4, on the CPU with any other",
        )


def _check_layers(policy: Policy) -> None:
    if not policy.layers:
        raise PolicyError(where="layers", problem="a policy places at least one layer")
    pages = policy.pages_per_layer
    for number, layer in enumerate(policy.layers):
        if len(layer) != pages:
            raise PolicyError(
                where=f"layer {number}",
                problem=f"it places {len(layer)} pages, but {policy.experts} experts of "
                f"{policy.pages_per_expert} pages are {pages}",
                hint="the pages of a layer are a whole number for each expert",
            )


def _check_ring(policy: Policy) -> None:
    """Every micro-batch of a layer reads all of its pages, so the ring holds one whole layer.

    All schedules but `ring` copy the next layer's pages beside those of the layer in use.
    """
    times = 1 if policy.schedule == "ring" else 2
    for number, layer in enumerate(policy.layers):
        least = times * len(layer.ringed)
        if least > policy.ring:
            raise PolicyError(
                where=f"layer {number}",
                problem=f"it passes {len(layer.ringed)} pages through a ring of {policy.ring}; "
                f"the schedule {policy.schedule} needs {least} slots",
                hint="give the ring more slots, keep more pages resident or on the CPU, or take "
                "the schedule ring, which needs room for one layer's pages only",
            )
