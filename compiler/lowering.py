"""A whole model's step lowered for one target: from its graph over regimes to compiled kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.core import Module, Operation
from ..options import Launch, Options
from ..passes.manager import Context, PassRecord, run_passes
from .formats import activation_dtype, kv_dtype, weight_dtype

if TYPE_CHECKING:
    from ..codegen.kernel import Kernel
    from ..ir.schedule import Schedule
    from ..passes.tile.regimes import Regime
    from .attention import Attention


@dataclass
class ModelLowering:
    """The stages of a model that fits its device whole; each is made when first asked for.

    `narrow` asks for steps that compute the logits of few words, too. `records` gets those of the
    passes that ran. A model divided between GPU and CPU has `offloading.Offloading` instead.
    """

    checkpoint: Checkpoint
    options: Options
    launch: Launch
    attention: Attention | None = None
    narrow: bool = False
    records: list[PassRecord] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether the target is a GPU."""
        return self.options.target == "cuda"

    @cached_property
    def rank_graph(self) -> Module:
        """The model's step, or the part of it that this rank computes."""
        from ..passes.graph.tensor_parallel import TensorParallel

        if self.options.tp == 1:
            return self.checkpoint.graph
        step = TensorParallel(self.launch.rank, self.options.tp)
        context = Context(model_name=self.checkpoint.name)
        graph, records = run_passes((step,), self.checkpoint.graph, context)
        self.records += records
        return graph

    @cached_property
    def regimes(self) -> list[Regime]:
        """The model lowered for each kind of step: decode by rows, and any step."""
        from ..passes.tile.regimes import lower_for_gpu, lower_model

        options, model = self.options, (self.checkpoint.config, self.rank_graph)
        known: dict[str, Any] = {"max_tokens": options.max_tokens, "max_batch": options.max_batch}
        known |= {"weights": weight_dtype(options), "kv": kv_dtype(options)}
        known["attention"] = self.attention.passes if self.attention else None
        if self.on_gpu:
            regimes = lower_for_gpu(*model, **known, **gpu_lowering(self.checkpoint, options))
        else:
            regimes = lower_model(*model, **known, narrow=self.narrow)
        for regime in regimes:
            self.records += [record for record in regime.records if record not in self.records]
        return regimes

    @property
    def graph(self) -> Module:
        """The model's step after the passes that all regimes share."""
        records = self.regimes[-1].records
        return next(record.before for record in records if record.name == "lower-to-tiles")

    @property
    def tile(self) -> Module:
        """Every kernel, once."""
        from ..passes.tile.regimes import merge_kernels, with_narrow

        return Module(tuple(kernel for kernel, _ in merge_kernels(with_narrow(self.regimes))))

    @cached_property
    def schedules(self) -> list[tuple[Operation, Schedule]]:
        """Every kernel with its schedule: the one chosen on this device, if one was."""
        from ..passes.tile.gpu_schedules import gpu_step_kernels
        from ..passes.tile.regimes import merge_kernels, with_narrow
        from ..passes.tile.rows.sampling import sampling_kernels

        regimes = with_narrow(self.regimes)
        few = partial(sampling_kernels, narrow=len(regimes) > len(self.regimes))
        around = (gpu_step_kernels if self.on_gpu else few)(self.checkpoint.config.vocab_size)
        usual = merge_kernels(regimes) + around + (self._head_kernels if self.on_gpu else [])
        if self.options.tune == "off":
            return usual
        from .choices import choices_of

        return choices_of(self.options).applied(usual)

    @property
    def _head_kernels(self) -> list[tuple[Operation, Schedule]]:
        """What computes logits of listed words on a GPU, if its head is in bf16 and whole."""
        from ..passes.tile.gpu_schedules import head_kernels

        config, options = self.checkpoint.config, self.options
        plain = weight_dtype(options) == activation_dtype(options) == "bf16" and options.tp == 1
        return head_kernels(config.vocab_size, config.width) if plain else []

    @cached_property
    def kernels(self) -> Mapping[str, Kernel]:
        """The compiled kernels, by name."""
        from ..codegen.bounds.proofs import ensure_proven

        if self.options.prove:
            ensure_proven([kernel for kernel, _ in self.schedules], self.options.cache)
        if self.on_gpu:
            from ..codegen.build_cuda import load_kernels

            return load_kernels(self.schedules, self.options.cache)
        from ..codegen.build import compile_kernels

        return compile_kernels(self.schedules, "cpu", self.options.cache)


def has_constraints(plan: Module) -> bool:
    """Return whether a plan holds gens to constraints: some steps then need few words' logits."""
    return any(operation.name == "plan.constraint" for operation in plan.operations)


def gpu_lowering(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    """Return what lowering for a GPU takes beside what lowering for any device does."""
    from ..codegen.measure.gpu import streaming_processors

    return {
        "activations": activation_dtype(options),
        "quantize": options.activations != "bf16",
        "processors": streaming_processors(),
        "copies": copy_room(checkpoint, options),
        "max_logits": options.max_logits,
    }


SHARE_OF_COPIES = 0.25
"""The part of what keys would have that copies of weights may take where no bound of keys is
given."""


def copy_room(checkpoint: Checkpoint, options: Options) -> float:
    """Return the bytes of a GPU that a second copy of weights may take: what is left beside the
    weights, the most that a step works with, and the keys that are asked for. Where there is no
    GPU, of an H200's. Ranks take none: each would find another room."""
    from ..runtime.devices.device import WORKSPACE, free_bytes

    if not options.weight_copies or options.tp > 1:
        return 0.0
    config = checkpoint.config
    rows = options.max_tokens * (4 * config.ffn + 8 * config.width)
    logits = 4 * (options.max_logits + options.max_batch) * config.vocab_size
    working = 2 * rows + logits + WORKSPACE
    left = free_bytes() - 2 * config.parameters - working
    room = left - options.kv_memory if options.kv_memory else SHARE_OF_COPIES * left
    return max(0.0, room)
