"""Sparse attention that a compilation asks for: its policy, the model's calibration, its price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .frontend.checkpoint import ZOO, Checkpoint
from .ir.attention_calibration import AttentionCalibration, NotCalibrated
from .ir.calibration_file import load_calibration
from .ir.core import Module
from .ir.diagnostics import WeftError
from .ir.loss_table import FILE_NAME as LOSSES
from .ir.loss_table import load_losses, policy_within
from .ir.model import ModelConfig
from .ir.source import Span
from .ir.sparse import SparsePolicy, parse_policy
from .options import BadOption, Options

if TYPE_CHECKING:
    from .passes.tile.regimes import Regime, Sparse
    from .runtime.offload.memory import Memory
    from .runtime.sparse_decode import SparseDecode


class TwoPolicies(WeftError):
    """Two sparse policies asked for at once."""

    kind = "attention error"
    template = "{second} beside {first}: a model keeps the labels of one policy at a time"
    hint = "use one policy in the whole program and its options, or dense in some blocks"


HARDWARE = {"cpu": "cpu-generic", "cuda": "h200"}
"""Whose prices say where sparse attention pays, by target."""


@dataclass(frozen=True)
class Attention:
    """A policy with the calibration that it needs; `default`: it is that of all gens, and not only
    of those under a `with attention`."""

    policy: SparsePolicy
    calibration: AttentionCalibration
    default: bool = True
    always: bool = False
    hardware: str = "cpu-generic"
    offload: bool = False
    ahead: bool = True

    @property
    def passes(self) -> Sparse:
        """Return what the model's passes take."""
        from .passes.tile.regimes import Sparse

        return Sparse(str(self.policy), self.hardware, self.always, self.offload, self.ahead)

    def page_bytes(self, config: ModelConfig, page_size: int) -> int:
        """Return the bytes that a page of keys needs beside them: labels, and sums of v for a tail,
        of all layers."""
        from .runtime.sparse_decode import page_bytes_beside

        return page_bytes_beside(config, self.policy, page_size)

    def list_bytes(self, config: ModelConfig, page_size: int) -> int:
        """Return what it needs once on a GPU: a score and a place in the list of one layer; with
        keys across a link a place in a predicted list, and one in the cache."""
        return (16 if self.offload else 8) * config.kv_heads * page_size


def asked_attention(
    checkpoint: Checkpoint, options: Options, plan: Module | None = None
) -> Attention | None:
    """Return the sparse attention that options ask for, or else a plan's `with attention`; None
    where neither does.

    Raises BadPolicy, NotCalibrated, OtherModel, BadCalibration: what the model and its calibration
    cannot do is found here, before anything is compiled.
    """
    asked = {} if plan is None else _policies(plan)
    default = parse_policy(options.attention)
    if options.max_loss and default is None:
        default = _within(checkpoint, options.max_loss)
    for text, span in asked.items():
        first = str(default) if default else next(iter(asked))
        if text != first:
            raise TwoPolicies(first=first, second=text, span=span)
    policy = default or (parse_policy(next(iter(asked))) if asked else None)
    if policy is None:
        return None
    if options.target == "cuda" and any(checkpoint.config.windows):
        hint = "take the target cpu, or a model without sliding windows"
        raise BadOption(problem="a GPU's work lists cannot mix windows and selections", hint=hint)
    calibration = calibration_of(checkpoint, policy)
    offload = bool(options.kv_host_memory)
    return Attention(
        policy, calibration, default is not None, options.attention_always or offload,
        HARDWARE[options.target], offload,
    )  # fmt: skip


def calibration_of(
    checkpoint: Checkpoint, policy: SparsePolicy, file: Path | None = None
) -> AttentionCalibration:
    """Return a checkpoint's calibration, or a file's, fit for a policy; raises as above."""
    config = checkpoint.config
    policy.check_layers(config.layers)
    policy.label_channels(config.head_dim)
    place, model = file or checkpoint.calibration_file, _command_name(checkpoint)
    if place is None:
        raise NotCalibrated(model=model, file="folder to keep one in")
    calibration = load_calibration(place, config, checkpoint.identity, model)
    calibration.check_policy(policy)
    return calibration


def _within(checkpoint: Checkpoint, budget: float) -> SparsePolicy:
    """Return the policy that reads the least of those measured to lose no more than a budget."""
    file = checkpoint.folder / LOSSES if checkpoint.folder else None
    model = _command_name(checkpoint)
    return policy_within(load_losses(file, checkpoint.identity, model), budget, model)


def _command_name(checkpoint: Checkpoint) -> str:
    """Return what a command calls the model: a shipped name, or its folder."""
    folder = checkpoint.folder
    return checkpoint.name if folder is None or folder.parent == ZOO else str(folder)


def _policies(plan: Module) -> dict[str, Span | None]:
    """Return the sparse policies that a plan's gens ask for, with where each is first asked."""
    found: dict[str, Span | None] = {}
    for operation in plan.walk():
        text = operation.attribute("attention") if operation.name == "plan.decode" else None
        if text and text != "dense":
            found.setdefault(text, operation.span)
    return found


def sparse_decode(
    attention: Attention | None, regimes: list[Regime], checkpoint: Checkpoint, options: Options,
    pages: int, page_size: int, device: str = "cpu", memory: Memory | None = None,
    window: float = math.inf,
) -> SparseDecode | None:  # fmt: skip
    """Return what an executor needs for sparse decode steps; None where no regime has them. Labels
    come of a capped `memory`, if there is one; `window` as in `SparseDecode`."""
    from .runtime.sparse_decode import SparseDecode, label_memory

    functions = [regime.function for regime in regimes if regime.sparse]
    if attention is None or not functions:
        return None
    config, policy = checkpoint.config, attention.policy
    layers = label_memory(config, policy, attention.calibration, pages, page_size, device,
                          words=options.target == "cuda", memory=memory)  # fmt: skip
    chosen = functions[0]["attention"]
    return SparseDecode(
        policy, chosen["least"], layers, options.max_batch, config.context_length,
        attention.default, window, chosen.get("shared"),
    )  # fmt: skip
