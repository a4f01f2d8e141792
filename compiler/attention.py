"""Sparse attention that a compilation asks for: its policy, the model's calibration, its price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..frontend.checkpoints.checkpoint import ZOO, Checkpoint
from ..ir.core import Module
from ..ir.diagnostics import WeftError
from ..ir.model import ModelConfig
from ..ir.source import Span
from ..ir.sparse.calibration import AttentionCalibration, NotCalibrated
from ..ir.sparse.calibration_file import load_calibration
from ..ir.sparse.loss_table import FILE_NAME as LOSSES
from ..ir.sparse.loss_table import (
    MeasuredLoss,
    NoLossTable,
    kept_by,
    load_losses,
    policy_within,
    require_within,
    row_of,
)
from ..ir.sparse.policy import SparsePolicy, parse_policy
from ..options import BadOption, Options
from .keys_ahead import fetches_ahead

if TYPE_CHECKING:
    from ..cost_model.keys_ahead import Ahead
    from ..passes.tile.regimes import Regime, Sparse
    from ..runtime.devices.memory import Memory
    from ..runtime.execution.sparse_decode import SparseDecode


class TwoPolicies(WeftError):
    """Two sparse policies asked for at once."""

    kind = "attention error"
    template = "{second} beside {first}: a model keeps the labels of one policy at a time"
    hint = "use one policy in the whole program and its options, or dense in some blocks"


HARDWARE = {"cpu": "cpu-generic", "cuda": "h200"}
"""Whose prices say where sparse attention pays, by target, unless this machine's are measured."""
KINDS = {"cpu": "cpu", "cuda": "gpu"}
"""The kind of level that a target's kernels run on."""


@dataclass(frozen=True)
class Attention:
    """A policy with the calibration that it needs; `default`: it is that of all gens, and not only
    of those under a `with attention`; `budget` says how it keeps `max_loss`. The rest is as in
    `passes.tile.regimes.Sparse`."""

    policy: SparsePolicy
    calibration: AttentionCalibration
    default: bool = True
    always: bool = False
    hardware: str = "cpu-generic"
    offload: bool = False
    ahead: bool = True
    batch: int = 1
    share: float = 0.0
    kind: str = ""
    foresight: Ahead | None = None
    budget: str = ""

    @property
    def passes(self) -> Sparse:
        """Return what the model's passes take."""
        from ..passes.tile.regimes import Sparse

        return Sparse(str(self.policy), self.hardware, self.always, self.offload, self.ahead,
                      self.batch, self.share, self.kind)  # fmt: skip

    def page_bytes(self, config: ModelConfig, page_size: int) -> int:
        """Return the bytes that a page of keys needs beside them: labels, and sums of v for a tail,
        of all layers."""
        from ..runtime.execution.sparse_decode import page_bytes_beside

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

    Raises BadPolicy, NotCalibrated, OtherModel, BadCalibration, NoLossTable, LosesMore: what the
    model and its calibration cannot do is found here, before anything is compiled.
    """
    asked = {} if plan is None else _policies(plan)
    default = parse_policy(options.attention) if options.attention else None
    if options.max_loss is not None and not asked and default is None:
        default = policy_within(_losses(checkpoint), options.max_loss, _command_name(checkpoint))
    for text, span in asked.items():
        first = str(default) if default else next(iter(asked))
        if text != first:
            raise TwoPolicies(first=first, second=text, span=span)
    policy = default or (parse_policy(next(iter(asked))) if asked else None)
    if policy is None and options.calibration is not None:
        hint = "ask for it: --attention 'sparse(ratio=1/16)', or with it in the program"
        raise BadOption(problem="calibration is for sparse attention", hint=hint)
    if options.max_loss is not None and options.calibration is not None:
        problem = "losses were measured with the model's own calibration"
        raise BadOption(problem=problem, hint="leave out max_loss, or calibration")
    if policy is None:
        return None
    options.require_one_process()
    budget = _budget(checkpoint, policy, options.max_loss)
    calibration = calibration_of(checkpoint, policy, options.calibration)
    offload, hardware = bool(options.kv_host_memory), priced_by(options.target)
    foresight = fetches_ahead(checkpoint.config, options, policy, hardware) if offload else None
    return Attention(
        policy, calibration, default is not None, options.attention_always or offload,
        hardware, offload, foresight is None or foresight.pays,
        options.attention_batch, _measured_share(checkpoint, policy), KINDS[options.target],
        foresight, budget,
    )  # fmt: skip


def priced_by(target: str) -> str:
    """Return the hardware whose prices say where sparse attention pays: the file that `weft
    calibrate` wrote, where it describes such a machine, else a shipped name."""
    from ..cost_model.hardware_file import hardware_path, load

    file = hardware_path()
    if file.exists() and any(level.kind == KINDS[target] for level in load(file).levels):
        return str(file)
    return HARDWARE[target]


def calibration_of(
    checkpoint: Checkpoint, policy: SparsePolicy, file: Path | None = None, statistic: str = "qk"
) -> AttentionCalibration:
    """Return a checkpoint's calibration, or a file's, fit for a policy; `statistic` picks among the
    three of the published layout. Raises as above."""
    config = checkpoint.config
    policy.check_layers(config.layers)
    policy.label_channels(config.head_dim)
    place, model = file or checkpoint.calibration_file, _command_name(checkpoint)
    if place is None:
        hint = "take a model's folder, or a shipped model: calibrations are kept beside weights"
        raise NotCalibrated(model=model, file="folder to keep one in", hint=hint)
    if file is not None and not file.exists():
        hint = f"run: weft calibrate-attention {model} --text FILE --out {file}"
        raise NotCalibrated(model=model, file=file, hint=hint)
    calibration = load_calibration(place, config, checkpoint.identity, model, statistic)
    calibration.check_policy(policy)
    return calibration


def _budget(checkpoint: Checkpoint, policy: SparsePolicy, most: float | None) -> str:
    """Return how a policy keeps a budget of loss, if any; raises LosesMore, NoLossTable."""
    if most is None:
        return ""
    losses = _losses(checkpoint)
    require_within(losses, policy, most, _command_name(checkpoint))
    return kept_by(losses, policy, most)


def _losses(checkpoint: Checkpoint) -> list[MeasuredLoss]:
    """Return what policies were measured to lose on a model; raises NoLossTable."""
    file = checkpoint.folder / LOSSES if checkpoint.folder else None
    return load_losses(file, checkpoint.identity, _command_name(checkpoint))


def _measured_share(checkpoint: Checkpoint, policy: SparsePolicy) -> float:
    """Return the share of a context that an adaptive policy was measured to read; 0: nobody has."""
    from ..cost_model.expected_reads import measured_share

    if not policy.adaptive:
        return 0.0
    try:
        row = row_of(_losses(checkpoint), policy)
    except NoLossTable:
        return 0.0
    config = checkpoint.config
    dense = sum(bool(window) or layer in policy.dense
                for layer, window in enumerate(config.windows))  # fmt: skip
    if row is None:
        return 0.0
    return measured_share(policy, row.bytes, config.head_dim, config.layers, dense)


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
    from ..runtime.execution.sparse_decode import SparseDecode, label_memory

    functions = [regime.function for regime in regimes if regime.sparse]
    if attention is None or not functions:
        return None
    config, policy = checkpoint.config, attention.policy
    layers = label_memory(config, policy, attention.calibration, pages, page_size, device,
                          words=options.target == "cuda", memory=memory)  # fmt: skip
    chosen = functions[0]["attention"]
    return SparseDecode(
        policy, chosen["least"], layers, options.max_batch, config.context_length,
        attention.default, window, bool(chosen.get("shared")),
    )  # fmt: skip
